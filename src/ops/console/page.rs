//! The frame of every page, and the sign-in form.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::viewer::Viewer;
use crate::escape::escape_hidden;

/// An HTML response.
pub(super) type Html = ([(axum::http::HeaderName, &'static str); 1], String);

fn answer(markup: Markup) -> Html {
    ([(axum::http::header::CONTENT_TYPE, "text/html; charset=utf-8")], markup.into_string())
}

/// A fragment of a page.
pub(super) fn fragment(markup: Markup) -> Html {
    answer(markup)
}

/// A refusal for a program, or a download: one line of text.
pub(super) fn refused(status: StatusCode, reason: &str) -> Response {
    (status, format!("{}\n", escape_hidden(reason))).into_response()
}

/// A page for an authenticated viewer.
pub(super) fn page(title: &str, viewer: &Viewer, main: &Markup) -> Html {
    frame(title, Some(viewer), main)
}

/// The sign-in form, with the error of the last attempt, and a link to the sign-in at the issuer with this host.
pub(super) fn sign_in(fault: &str, provider: Option<&str>) -> Html {
    let main = html! {
        section.narrow aria-labelledby="sign-in" {
            h1 id="sign-in" { "Sign in" }
            @if !fault.is_empty() { p.fault role="alert" { (escape_hidden(fault)) } }
            @if let Some(provider) = provider {
                p { a.button href="/console/sign-in/start" { "Sign in with " (escape_hidden(provider)) } }
                p.or { "or with a token" }
            }
            form method="post" action="/console/sign-in" {
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="off" required maxlength="16384"
                    aria-describedby="about";
                p.quiet id="about" {
                    "A token that this gateway accepts, with the role in " code { "ops.console_role" }
                    ". It is sent once and not stored."
                }
                button type="submit" { "Sign in" }
            }
        }
    };
    frame("Sign in", None, &main)
}

/// The page after a sign-in at the issuer: it leads to the console. The browser sends the session's cookie only with a
/// request that a page of the console makes.
pub(super) fn signed_in() -> Html {
    answer(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (head("Signed in"))
                meta http-equiv="refresh" content="0; url=/console";
            }
            body { main id="main" { section.narrow { h1 { "Signed in" } p { a href="/console" { "Continue to the console" } } } } }
        }
    })
}

/// The elements of the head that all pages have.
fn head(title: &str) -> Markup {
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        title { (title) " - Gatepost" }
        link rel="icon" type="image/svg+xml" href="/console/icon.svg";
        link rel="stylesheet" href="/console/style.css";
    }
}

/// The pages that each page leads to: path and title.
const PAGES: [(&str, &str); 4] = [
    ("/console", "Overview"),
    ("/console/trail", "Trail"),
    ("/console/docs/runbook", "Runbook"),
    ("/console/docs/console", "Help"),
];

fn frame(title: &str, viewer: Option<&Viewer>, main: &Markup) -> Html {
    answer(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (head(title))
                @if viewer.is_some() { script src="/console/script.js" defer {} }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    a.brand href="/console" { "Gatepost" }
                    @if let Some(viewer) = viewer {
                        p.which {
                            (env!("CARGO_PKG_VERSION"))
                            @if let Some(gateway) = viewer.gateway { " " span title="The id of this gateway" { (gateway) } }
                        }
                        nav aria-label="Pages" {
                            @for (path, name) in PAGES {
                                a href=(path) aria-current=[(title == name).then_some("page")] { (name) }
                            }
                        }
                        form.out method="post" action="/console/sign-out" {
                            span.quiet { (escape_hidden(viewer.subject())) }
                            button.plain type="submit" { "Sign out" }
                        }
                    }
                }
                main id="main" tabindex="-1" { (main) }
            }
        }
    })
}

/// A word of status. Its meaning does not depend on its colour.
pub(super) fn tag(word: &str, kind: &str) -> Markup {
    html! { span.tag data-kind=(kind) { (word) } }
}

/// Shortest part of a text, in characters, that may be broken anywhere. *Chosen*: an id, and no name.
const PART_CHARS: usize = 25;

/// A name with the places where a narrow column may break it: after its separators, and within long parts anywhere.
pub(super) fn breakable(text: &str) -> Markup {
    let parts = text.split_inclusive(['/', '_', '-', '.', '@', ':']);
    html! { @for (idx, part) in parts.enumerate() {
        @if idx > 0 { wbr; }
        @if part.chars().count() < PART_CHARS { (part) } @else { span.long { (part) } }
    } }
}
