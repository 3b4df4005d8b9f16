//! Writes JSON objects, indented by two spaces. A derive for the few that we print costs a router 65 KB.

/// An object under construction, and the ones that it is in.
pub(crate) struct Json {
    text: String,
    depth: usize,
    is_empty: bool,
}

impl Json {
    /// Opens the outermost object.
    pub(crate) fn new() -> Self {
        Self { text: "{".to_owned(), depth: 1, is_empty: true }
    }

    /// Adds an object that `fill` fills.
    pub(crate) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Self)) {
        self.key(key);
        self.text.push('{');
        self.depth += 1;
        self.is_empty = true;
        fill(self);
        self.close();
    }

    /// Adds a string.
    pub(crate) fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.quote(value);
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.text += &value.to_string();
    }

    /// Adds a truth value.
    pub(crate) fn boolean(&mut self, key: &str, value: bool) {
        self.key(key);
        self.text += if value { "true" } else { "false" };
    }

    /// Adds a list of objects that `fill` fills, one for each item.
    pub(crate) fn array<T>(&mut self, key: &str, items: &[T], fill: impl Fn(&mut Self, &T)) {
        self.key(key);
        self.text.push('[');
        self.depth += 1;
        for (at, item) in items.iter().enumerate() {
            self.text += if at == 0 { "" } else { "," };
            self.new_line();
            self.text.push('{');
            self.depth += 1;
            self.is_empty = true;
            fill(self, item);
            self.close();
        }
        self.depth = self.depth.saturating_sub(1);
        if !items.is_empty() {
            self.new_line();
        }
        self.is_empty = false;
        self.text.push(']');
    }

    /// The text, with a newline at its end.
    pub(crate) fn finish(mut self) -> String {
        self.close();
        self.text.push('\n');
        self.text
    }

    fn key(&mut self, key: &str) {
        if !self.is_empty {
            self.text.push(',');
        }
        self.is_empty = false;
        self.new_line();
        self.quote(key);
        self.text += ": ";
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if !self.is_empty {
            self.new_line();
        }
        self.is_empty = false;
        self.text.push('}');
    }

    fn new_line(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n("  ", self.depth));
    }

    fn quote(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                '\n' => self.text += "\\n",
                '\r' => self.text += "\\r",
                '\t' => self.text += "\\t",
                c if c < ' ' => self.text += &format!("\\u{:04x}", u32::from(c)),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_nest_and_strings_are_escaped() {
        let mut json = Json::new();
        json.object("a", |a| {
            a.string("b", "\"\\\n\r\t\u{1}é<&>");
            a.number("c", 443);
        });
        json.object("empty", |_| {});
        json.array("list", &[1, 2], |item, number| item.number("n", *number));
        json.array("none", &[0; 0], |_, _: &u64| {});
        json.string("d", "");
        json.boolean("e", true);
        let expected = r#"{
  "a": {
    "b": "\"\\\n\r\t\u0001é<&>",
    "c": 443
  },
  "empty": {},
  "list": [
    {
      "n": 1
    },
    {
      "n": 2
    }
  ],
  "none": [],
  "d": "",
  "e": true
}
"#;
        assert_eq!(json.finish(), expected);
        assert_eq!(Json::new().finish(), "{}\n");
    }
}
