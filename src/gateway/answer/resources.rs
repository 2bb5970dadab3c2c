//! The backend of a resource. At the endpoint of all backends, resources keep the URIs of their backends, without an
//! alias.

use std::sync::Arc;

use crate::gateway::answer::lists;
use crate::gateway::call::context::RequestContext;
use crate::mcp::methods::List;
use crate::rbac::Target;
use crate::upstream::{Backend, Item};

/// The lists of all backends, each with its backend.
type Lists = Vec<(Arc<Backend>, Arc<[Item]>)>;

/// Finds the backends of the resources that one request names. The lists of the backends are read at most once, however
/// many resources that are.
pub(crate) struct ResourceSearch<'a> {
    ctx: &'a RequestContext<'a>,
    resources: Option<Lists>,
    templates: Option<Lists>,
}

impl<'a> ResourceSearch<'a> {
    pub(crate) fn new(ctx: &'a RequestContext<'a>) -> Self {
        Self { ctx, resources: None, templates: None }
    }

    /// The backend that has the resource `uri`, or a template for it. Only backends from which the caller may read it
    /// count. If the caller may not read it from any backend, nothing is searched.
    pub(crate) async fn owner(&mut self, uri: &str) -> Option<String> {
        let ctx = self.ctx;
        let allowed = |backend: &str| ctx.rules.policy.shows(&ctx.principal.roles, Target::resource(backend, uri));
        if let Some(known) = ctx
            .core
            .resource_owners
            .of(ctx.owner(), uri)
            .filter(|known| allowed(known) && ctx.core.upstreams.contains(known))
        {
            return Some(known);
        }
        if !ctx.visible_backends().any(|backend| allowed(backend.alias())) {
            return None;
        }
        let has = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
            allowed(backend.alias()) && items.iter().any(|item| item.name == uri)
        };
        let lists = read_once(ctx, List::Resources, &mut self.resources).await;
        if let Some((backend, _)) = lists.iter().find(has) {
            return Some(backend.alias().to_owned());
        }
        let fits = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
            let fits = |item: &Item| item.name == uri || template_fits(&item.name, uri);
            allowed(backend.alias()) && items.iter().any(fits)
        };
        let lists = read_once(ctx, List::Templates, &mut self.templates).await;
        lists.iter().find(fits).map(|(backend, _)| backend.alias().to_owned())
    }
}

/// The lists in `read`, which are read from the backends if they were not yet.
async fn read_once<'r>(ctx: &RequestContext<'_>, list: List, read: &'r mut Option<Lists>) -> &'r Lists {
    let lists = if let Some(lists) = read.take() {
        lists
    } else {
        // I6: a search is as expensive as one more request.
        ctx.core.limits.charge(&ctx.principal, 1, &ctx.rules);
        lists::of_all_backends(ctx, list).await
    };
    read.insert(lists)
}

/// Returns `true` if the URI template `template` can expand to `uri`. An expression in braces matches any text.
fn template_fits(template: &str, uri: &str) -> bool {
    let mut rest = uri;
    let mut parts = template.split('{');
    let Some(literal) = parts.next() else { return false };
    let Some(tail) = rest.strip_prefix(literal) else { return false };
    rest = tail;
    let literals: Vec<&str> = parts.map(|part| part.split_once('}').map_or("", |(_, literal)| literal)).collect();
    let Some((last, inner)) = literals.split_last() else { return rest.is_empty() };
    for literal in inner {
        let Some(at) = rest.find(literal) else { return false };
        rest = rest.get(at + literal.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_the_uris_that_it_can_expand_to() {
        for (template, uri, fits) in [
            ("test://t/{id}/data", "test://t/7/data", true),
            ("test://t/{id}/data", "test://t/7/date", false),
            ("a:{x}/{y}", "a:1/2", true),
            ("a:{x}/{y}", "a:12", false),
            ("a:b", "a:b", true),
            ("a:b", "a:bc", false),
            ("file:///{+path}", "file:///x/y", true),
        ] {
            assert_eq!(template_fits(template, uri), fits, "{template} {uri}");
        }
    }
}
