//! Pages of the documentation as HTML: the Markdown that `docs/` uses.
//!
//! Headings, paragraphs, lists, tables, fenced code, comments, images (their text), and within a line code, bold text
//! and links. The pages are part of the binary; nothing that a caller wrote is read as Markdown.

use maud::{Markup, html};

/// A page as HTML. `is_known` decides whether another page can be linked.
pub(super) fn to_html(text: &str, is_known: &dyn Fn(&str) -> bool) -> Markup {
    let lines: Vec<&str> = text.lines().collect();
    let mut rest = lines.as_slice();
    let mut blocks = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        let count = if first.starts_with("<!--") {
            to_line(rest, |line| line.ends_with("-->"))
        } else if first.starts_with("```") {
            1 + to_line(after, |line| line.starts_with("```"))
        } else if first.trim().is_empty() || first.starts_with('#') {
            1
        } else {
            let kind = kind(first);
            let is_mark = |line: &str| line.starts_with('#') || line.starts_with("```");
            let is_end = |line: &&str| line.trim().is_empty() || is_mark(line) || is_other(kind, line);
            1 + after.iter().position(is_end).unwrap_or(after.len())
        };
        let (block, next) = rest.split_at(count.clamp(1, rest.len()));
        blocks.push(to_block(block, is_known));
        rest = next;
    }
    html! { @for block in blocks { (block) } }
}

/// The anchor of a heading, as GitHub makes it.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    List,
    Table,
}

fn kind(line: &str) -> Kind {
    if line.starts_with('|') {
        Kind::Table
    } else if item(line).is_some() {
        Kind::List
    } else {
        Kind::Text
    }
}

/// Returns true if a block of another kind begins with this line.
fn is_other(block: Kind, line: &str) -> bool {
    match (block, kind(line)) {
        (Kind::Table, found) => found != Kind::Table,
        (_, Kind::Table) | (Kind::Text, Kind::List) => true,
        _ => false,
    }
}

/// The text of an item of a list, and whether the list is numbered.
fn item(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_start();
    if let Some(text) = line.strip_prefix("* ").or_else(|| line.strip_prefix("- ")) {
        return Some((false, text));
    }
    let (number, text) = line.split_once(". ")?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some((true, text))
}

/// The number of lines up to and with the first one that ends a block.
fn to_line(lines: &[&str], is_last: impl Fn(&str) -> bool) -> usize {
    lines.iter().position(|line| is_last(line)).map_or(lines.len(), |at| at + 1)
}

fn to_block(lines: &[&str], is_known: &dyn Fn(&str) -> bool) -> Markup {
    let Some((first, rest)) = lines.split_first() else { return html! {} };
    let inline = |text: &str| inline(text, is_known);
    if first.starts_with("<!--") || first.trim().is_empty() {
        return html! {};
    }
    if first.starts_with("```") {
        let code = rest.iter().take_while(|line| !line.starts_with("```")).copied().collect::<Vec<_>>().join("\n");
        return html! { pre tabindex="0" { (code) } };
    }
    if let Some(heading) = first.strip_prefix('#') {
        let level = heading.bytes().take_while(|byte| *byte == b'#').count();
        let text = heading.trim_start_matches('#').trim();
        return match level {
            0 => html! { h1 id=(anchor(text)) { (inline(text)) } },
            1 => html! { h2 id=(anchor(text)) { (inline(text)) } },
            _ => html! { h3 id=(anchor(text)) { (inline(text)) } },
        };
    }
    match kind(first) {
        Kind::Table => table(lines, &inline),
        Kind::List => {
            let is_numbered = item(first).is_some_and(|(is_numbered, _)| is_numbered);
            let mut items: Vec<String> = Vec::new();
            for line in lines {
                match (item(line), items.last_mut()) {
                    (None, Some(last)) => *last = format!("{last} {}", line.trim()),
                    (found, _) => items.push(found.map_or(*line, |(_, text)| text).to_owned()),
                }
            }
            html! {
                @if is_numbered { ol { @for item in &items { li { (inline(item)) } } } }
                @else { ul { @for item in &items { li { (inline(item)) } } } }
            }
        }
        Kind::Text => html! { p { (inline(&lines.join(" "))) } },
    }
}

fn table(lines: &[&str], inline: &dyn Fn(&str) -> Markup) -> Markup {
    let cells = |line: &str| cells(line);
    let mut rows = lines.iter().filter(|line| line.contains(|c: char| !matches!(c, '|' | '-' | ' ' | ':')));
    let head = rows.next().map(|line| cells(line)).unwrap_or_default();
    html! {
        div.wide tabindex="0" role="group" aria-label="Table" {
            table {
                thead { tr { @for cell in &head { th scope="col" { (inline(cell)) } } } }
                tbody { @for row in rows { tr { @for cell in &cells(row) { td { (inline(cell)) } } } } }
            }
        }
    }
}

/// The cells of a row; `\|` is a bar within one.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').replace("\\|", "\u{1}");
    let line = line.strip_suffix('|').unwrap_or(&line);
    line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// The marks within a line.
fn inline(text: &str, is_known: &dyn Fn(&str) -> bool) -> Markup {
    let Some(at) = text.find(['`', '*', '[', '!']) else { return html! { (text) } };
    let (before, rest) = text.split_at(at);
    let found = marked(rest, '`', '`')
        .map(|(code, after)| (html! { code { (code) } }, after))
        .or_else(|| {
            let (bold, after) = rest.strip_prefix("**")?.split_once("**")?;
            Some((html! { strong { (inline(bold, is_known)) } }, after))
        })
        .or_else(|| {
            let (label, after) = marked(rest.strip_prefix('!').unwrap_or(rest), '[', ']')?;
            let (target, after) = marked(after, '(', ')')?;
            let label = inline(label, is_known);
            let (page, part) = target.split_once('#').map_or((target, None), |(page, part)| (page, Some(part)));
            let page = page.strip_suffix(".md").unwrap_or(page);
            let link = match part {
                _ if rest.starts_with('!') => html! { span.quiet { "[" (label) "]" } },
                Some(part) if page.is_empty() => html! { a href={ "#" (part) } { (label) } },
                Some(part) if is_known(page) => html! { a href={ "/console/docs/" (page) "#" (part) } { (label) } },
                None if is_known(page) => html! { a href={ "/console/docs/" (page) } { (label) } },
                _ => label,
            };
            Some((link, after))
        });
    if let Some((found, after)) = found {
        return html! { (before) (found) (inline(after, is_known)) };
    }
    let mut chars = rest.chars();
    let mark: String = chars.next().into_iter().collect();
    html! { (before) (mark) (inline(chars.as_str(), is_known)) }
}

/// The text between two marks at the beginning, and the text after them.
fn marked(text: &str, open: char, close: char) -> Option<(&str, &str)> {
    text.strip_prefix(open)?.split_once(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(text: &str) -> String {
        to_html(text, &|page| page == "runbook").into_string()
    }

    #[test]
    fn the_markdown_of_the_documentation_becomes_html() {
        for (text, wanted) in [
            (
                "# A\n\n## log_dropped, `b`",
                "<h1 id=\"a\">A</h1><h2 id=\"log_dropped-b\">log_dropped, <code>b</code></h2>",
            ),
            ("one\n**two** <b>", "<p>one <strong>two</strong> &lt;b&gt;</p>"),
            ("one\n`two` three\n```\nfour\n```", "<p>one <code>two</code> three</p><pre tabindex=\"0\">four</pre>"),
            ("* a\n  b\n* c", "<ul><li>a b</li><li>c</li></ul>"),
            ("text:\n1. a\n2. b", "<p>text:</p><ol><li>a</li><li>b</li></ol>"),
            ("```console\n$ a | b\n# c\n```\nd", "<pre tabindex=\"0\">$ a | b\n# c</pre><p>d</p>"),
            ("<!-- a\n```\nb\n-->\nc", "<p>c</p>"),
            (
                "[a](runbook.md#fork) [b](other.md) [c](#d)",
                "<p><a href=\"/console/docs/runbook#fork\">a</a> b <a href=\"#d\">c</a></p>",
            ),
            ("![a picture](x.png) 2 * 3 [x]", "<p><span class=\"quiet\">[a picture]</span> 2 * 3 [x]</p>"),
        ] {
            assert_eq!(html(text), wanted, "{text}");
        }
        let table = html("| a | b |\n| --- | --- |\n| `c \\| d` | e |\n");
        assert!(table.contains("<th scope=\"col\">a</th>") && table.contains("<td><code>c | d</code></td>"), "{table}");
        assert_eq!(html(""), "");
    }
}
