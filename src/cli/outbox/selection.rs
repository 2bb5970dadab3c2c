//! The options by which the subcommands select stored records.

use crate::audit::query::Filter;
use crate::cli::filter_args::FilterArgs;

/// Options that select stored records.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only records of this epoch
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
}

impl Selection {
    pub(super) fn filter(&self, limit: usize) -> Box<Filter> {
        Box::new(Filter { epoch: self.epoch, limit, ..self.filter.filter() })
    }
}
