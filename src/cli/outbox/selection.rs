//! The options by which the subcommands select stored records.

use crate::audit::query::Filter;
use crate::cli::filter_args::FilterArgs;
use crate::ops::time_arg::Zone;

/// Options that select stored records.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
    /// Only records of this epoch
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
    #[command(flatten)]
    filter: FilterArgs,
}

impl Selection {
    /// The filter.
    ///
    /// # Errors
    /// A time does not exist in the zone.
    pub(super) fn filter(&self, limit: usize, zone: Zone) -> anyhow::Result<Box<Filter>> {
        Ok(Box::new(Filter { epoch: self.epoch, limit, ..self.filter.filter(zone)? }))
    }
}
