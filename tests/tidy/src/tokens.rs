//! Rust source as tokens: enough to tell code from comments and strings, and tests from the rest.

/// One token and its line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) kind: Kind,
    /// Inside an inline module under `#[cfg(test)]`.
    pub(crate) test: bool,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A word: identifier, keyword or number.
    Word(String),
    /// A string's content, escapes untouched.
    Str(String),
    /// `::`
    PathSep,
    /// Any other character.
    Char(char),
}

impl Token {
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(w) if w == word)
    }

    pub(crate) fn is_char(&self, c: char) -> bool {
        self.kind == Kind::Char(c)
    }

    pub(crate) fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// Splits source into tokens; comments vanish.
pub(crate) fn tokenize(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new() };
    while lexer.step() {}
    mark_tests(&mut lexer.tokens);
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(c) = self.rest.chars().next() else { return false };
        let rest = self.rest;
        if rest.starts_with("//") {
            self.skip(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.skip(block_comment(rest));
        } else if let Some((open, close)) = raw_string(rest) {
            self.string(open, &close);
        } else if rest.starts_with('"') || rest.starts_with("b\"") || rest.starts_with("c\"") {
            self.escaped_string(rest.find('"').unwrap_or(0) + 1);
        } else if c == '\'' {
            let len = char_or_lifetime(rest);
            self.skip(len);
        } else if c.is_alphanumeric() || c == '_' {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
            self.push(Kind::Word(rest[..len].to_owned()));
            self.skip(len);
        } else if rest.starts_with("::") {
            self.push(Kind::PathSep);
            self.skip(2);
        } else {
            if !c.is_whitespace() {
                self.push(Kind::Char(c));
            }
            self.skip(c.len_utf8());
        }
        true
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { line: self.line, kind, test: false });
    }

    fn skip(&mut self, len: usize) {
        let (skipped, rest) = self.rest.split_at(len);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    /// A string that begins after `open` bytes and ends at `close`.
    fn string(&mut self, open: usize, close: &str) {
        let len = self.rest[open..].find(close).unwrap_or(self.rest.len() - open);
        self.push(Kind::Str(self.rest[open..open + len].to_owned()));
        self.skip((open + len + close.len()).min(self.rest.len()));
    }

    fn escaped_string(&mut self, open: usize) {
        let bytes = self.rest.as_bytes();
        let mut end = open;
        while end < bytes.len() && bytes[end] != b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let end = end.min(bytes.len());
        self.push(Kind::Str(self.rest[open..end].to_owned()));
        self.skip((end + 1).min(bytes.len()));
    }
}

/// Length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// `r#"`, `br"`, …: length of the opening and the closing that belongs to it.
fn raw_string(rest: &str) -> Option<(usize, String)> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|p| rest.strip_prefix(p).is_some_and(|r| r.starts_with('"') || r.starts_with('#')))?;
    let hashes = rest[prefix.len()..].chars().take_while(|c| *c == '#').count();
    let open = prefix.len() + hashes;
    rest[open..].starts_with('"').then(|| (open + 1, format!("\"{}", "#".repeat(hashes))))
}

/// Length of `'x'`, `'\n'`, `'\u{1F600}'`, or of the quote of a lifetime.
fn char_or_lifetime(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The escaped character itself may be a quote.
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// Marks the tokens of `#[cfg(test)] mod … { … }`.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        match test_module(tokens, at) {
            Some(open) => {
                let close = closing_brace(tokens, open);
                for token in &mut tokens[at..close] {
                    token.test = true;
                }
                at = close;
            }
            None => at += 1,
        }
    }
}

/// If `#[cfg(test)]` begins here and an inline module follows: where its `{` is.
fn test_module(tokens: &[Token], at: usize) -> Option<usize> {
    let shape = tokens.get(at..at + 7)?;
    let marks = [(0, '#'), (1, '['), (3, '('), (5, ')'), (6, ']')];
    let cfg_test = shape[2].is_word("cfg") && shape[4].is_word("test");
    if !cfg_test || marks.iter().any(|(i, c)| !shape[*i].is_char(*c)) {
        return None;
    }
    let rest = &tokens[at + 7..];
    let module = rest.iter().position(|t| t.is_word("mod"))?;
    // Nothing but visibility and further attributes may stand between.
    let between = rest[..module].iter().any(|t| t.is_char(';') || t.is_char('{'));
    let open = rest.get(module + 2)?;
    (!between && open.is_char('{')).then_some(at + 7 + module + 2)
}

/// One past the `}` that closes the `{` at `open`.
fn closing_brace(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.is_char('{') {
            depth += 1;
        } else if token.is_char('}') {
            depth -= 1;
            if depth == 0 {
                return i + 1;
            }
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        tokenize(text).iter().filter_map(|t| t.word().map(str::to_owned)).collect()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let text = "a // no\n/* no /* nested */ no */ b \"no \\\" no\" r#\"no \" no\"# c b\"no\" 'n' '\\'' d 'lifetime e";
        assert_eq!(words(text), ["a", "b", "c", "d", "lifetime", "e"]);
    }

    #[test]
    fn lines_and_strings_are_kept() {
        let tokens = tokenize("a\n\"x\ny\"\nb");
        let lines: Vec<usize> = tokens.iter().map(|t| t.line).collect();
        assert_eq!(lines, [1, 2, 4]);
        assert_eq!(tokens[1].kind, Kind::Str("x\ny".to_owned()));
    }

    #[test]
    fn inline_test_modules_are_marked_and_nothing_else() {
        let text = "fn a() {} #[cfg(test)] mod tests { fn b() {} } fn c() {} #[cfg(test)] fn d() {} \
                    #[cfg(test)] #[path = \"x\"] mod e; mod f { fn g() {} }";
        let test: Vec<String> = tokenize(text)
            .into_iter()
            .filter(|t| t.test)
            .filter_map(|t| t.word().map(str::to_owned))
            .collect();
        assert_eq!(test, ["cfg", "test", "mod", "tests", "fn", "b"]);
    }
}
