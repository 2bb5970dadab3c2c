//! A command line that is split into words by the rules of a POSIX shell for blanks, quotes and backslashes. No shell
//! runs: what only a shell could do, such as replacing `$HOME`, is an error and does not reach the program as it is
//! written.

/// Characters that have another meaning to a shell, unless they are quoted. *Spec*: POSIX.1-2024, Shell Command
/// Language, 2.2 "Quoting", without those of patterns and comments, which are often meant as they are written.
const OPERATORS: [char; 7] = ['|', '&', ';', '<', '>', '(', ')'];

/// The same inside double quotes too.
const EXPANSIONS: [char; 2] = ['$', '`'];

/// The words of a command line.
///
/// # Errors
/// A quote is not closed, the line ends with a backslash, or a part is for a shell.
pub(super) fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let is_start = word.is_none();
        let word = word.get_or_insert_default();
        match c {
            '\'' => loop {
                match chars.next() {
                    Some('\'') => break,
                    Some(c) => word.push(c),
                    None => return Err("has a ' that is not closed: close it, or write \\'".to_owned()),
                }
            },
            '"' => double_quoted(&mut chars, word)?,
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.push(c),
                None => return Err("ends with a backslash: write \\\\ for one".to_owned()),
            },
            '~' if is_start => return Err("has a ~ for a home directory: write its whole path".to_owned()),
            c if OPERATORS.contains(&c) || EXPANSIONS.contains(&c) => return Err(for_a_shell(c)),
            c => word.push(c),
        }
    }
    words.extend(word);
    if words.iter().any(|word| word.contains('\0')) {
        return Err("contains a NUL character: remove it".to_owned());
    }
    Ok(words)
}

/// Adds the rest of a text in double quotes to the word.
fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    let unclosed = || "has a \" that is not closed: close it, or write \\\"".to_owned();
    loop {
        match chars.next().ok_or_else(unclosed)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or_else(unclosed)? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c if EXPANSIONS.contains(&c) => return Err(for_a_shell(c)),
            c => word.push(c),
        }
    }
}

fn for_a_shell(c: char) -> String {
    format!("has a {c}, which only a shell understands, and none runs: write \\{c} for the character itself")
}

#[cfg(test)]
mod tests {
    #[test]
    fn command_lines_are_split_as_a_shell_splits_words() {
        for line in [
            "a",
            "  a   b\tc\n",
            "a 'b c' \"d e\"",
            "a'b'\"c\"d",
            "a '' \"\" b",
            r#"a b\ c \' \" \\"#,
            r#"a "b\"c" "d\\e" "f\g" "\$x" "\`""#,
            r"a 'b\c' '$x' '`' '|&;<>()'",
            r"a \$x \| \&",
            "a --opt=b=c @scope/pkg http://h/?x=1 a~b *.txt #no",
            "a b\\\nc",
            "a caf\u{e9} '\u{65e5}'",
        ] {
            // A shell is the judge. Patterns and comments, which it would replace and drop, are quoted for it.
            let quoted = line.replace("*.txt", "'*.txt'").replace("#no", "'#no'");
            let script = format!("printf '%s\\0' {}", quoted.trim());
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let words = String::from_utf8(output.stdout).unwrap();
            let words: Vec<_> = words.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            assert_eq!(super::words(line).unwrap(), words, "{line:?}");
        }
        assert_eq!(super::words("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_only_a_shell_understands_is_an_error() {
        for (line, part) in [
            ("a 'b", "' that is not closed"),
            ("a \"b", "\" that is not closed"),
            ("a \"b\\", "\" that is not closed"),
            ("a b\\", "ends with a backslash"),
            ("a $HOME", "a $,"),
            ("a \"$HOME\"", "a $,"),
            ("a `id`", "a `,"),
            ("a | b", "a |,"),
            ("a; b", "a ;,"),
            ("a && b", "a &,"),
            ("a > b", "a >,"),
            ("(a)", "a (,"),
            ("a ~/b", "write its whole path"),
            ("a \0", "NUL"),
        ] {
            let error = super::words(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }
}
