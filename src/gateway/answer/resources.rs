//! The backend of a resource. At the endpoint of all backends, resources keep the URIs of their backends, without an
//! alias.

use std::sync::Arc;

use crate::gateway::answer::lists;
use crate::gateway::call::context::RequestContext;
use crate::mcp::methods::List;
use crate::rbac::Target;
use crate::upstream::{Backend, Item};

/// The backend that has the resource `uri`, or a template for it. Only backends from which the caller may read it
/// count.
pub(crate) async fn owner(ctx: &RequestContext<'_>, uri: &str) -> Option<String> {
    let allowed = |backend: &str| ctx.rules.policy.shows(&ctx.principal.roles, Target::resource(backend, uri));
    if let Some(known) = ctx.core.resource_owners.of(uri).filter(|known| allowed(known)) {
        return Some(known);
    }
    let found = lists::of_all_backends(ctx, List::Resources).await;
    let has = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
        allowed(backend.alias()) && items.iter().any(|item| item.name == uri)
    };
    if let Some((backend, _)) = found.iter().find(has) {
        return Some(backend.alias().to_owned());
    }
    let found = lists::of_all_backends(ctx, List::Templates).await;
    let fits = |(backend, items): &&(Arc<Backend>, Arc<[Item]>)| {
        let fits = |item: &Item| item.name == uri || template_fits(&item.name, uri);
        allowed(backend.alias()) && items.iter().any(fits)
    };
    found.iter().find(fits).map(|(backend, _)| backend.alias().to_owned())
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
