//! `/console/docs/NAME`: the pages of the documentation that an operator needs while the console is open. They are part
//! of the binary, about 25 KiB: they are those of this version, and can be read when nothing else can be reached.

use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::markdown::to_html;
use super::page;
use super::state::Console;
use crate::connections::Peer;

/// The pages, by name.
const PAGES: [(&str, &str); 2] =
    [("runbook", include_str!("../../../docs/runbook.md")), ("console", include_str!("../../../docs/console.md"))];

/// `GET /console/docs/NAME`
pub(super) async fn show(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.page(),
    };
    let text_of = |name: &str| PAGES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let Some(text) = text_of(&name) else {
        let main = html! { h1 { "Not found" } p { "The console has the pages runbook and console." } };
        return (StatusCode::NOT_FOUND, page::page("Not found", &viewer, &main)).into_response();
    };
    let main = html! { article.docs { (to_html(text, &|page| text_of(page).is_some())) } };
    let title = if name == "runbook" { "Runbook" } else { "Help" };
    page::page(title, &viewer, &main).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::markdown::anchor;
    use super::*;
    use crate::ops::alarm::Alarm;

    #[test]
    fn every_alarm_has_an_anchor_in_the_runbook() {
        let (_, runbook) = PAGES[0];
        let shown = to_html(runbook, &|_| false).into_string();
        for alarm in Alarm::ALL {
            let id = format!("<h2 id=\"{}\">", anchor(alarm.name()));
            assert!(shown.contains(&id), "{id}");
        }
        // All fences were closed.
        assert!(!shown.contains("```") && !shown.contains("](") && !shown.contains("**"), "{shown}");
    }
}
