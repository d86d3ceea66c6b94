//! Views as they are written down. Many nodes have the same long files, such as the hosts of their network: each text is
//! written once, and a view names it by its number. It never changes what a view says.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::View;

/// All views, with the texts of their files apart; `S` is a string.
#[derive(Serialize, Deserialize)]
struct Written<S: Ord> {
    texts: Vec<S>,
    views: BTreeMap<S, WrittenView<S>>,
}

#[derive(Serialize, Deserialize)]
struct WrittenView<S: Ord> {
    /// Numbers of texts by path.
    files: BTreeMap<S, usize>,
    dirs: Vec<S>,
}

pub(super) fn serialize<T: Serializer>(views: &BTreeMap<String, View>, to: T) -> Result<T::Ok, T::Error> {
    let mut texts: Vec<&str> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut written = BTreeMap::new();
    for (ns, view) in views {
        let mut files = BTreeMap::new();
        for (path, text) in &view.files {
            let number = *numbers.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() - 1
            });
            files.insert(path.as_str(), number);
        }
        let dirs = view.dirs.iter().map(String::as_str).collect();
        written.insert(ns.as_str(), WrittenView { files, dirs });
    }
    Written { texts, views: written }.serialize(to)
}

pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<String, View>, D::Error> {
    let Written { texts, views } = Written::<String>::deserialize(from)?;
    let view = |(ns, view): (String, WrittenView<String>)| {
        let text = |(path, number): (String, usize)| {
            let text = texts.get(number).ok_or_else(|| D::Error::custom("a view without its text"))?;
            Ok((path, text.clone()))
        };
        let files = view.files.into_iter().map(text).collect::<Result<_, D::Error>>()?;
        Ok((ns, View { files, dirs: view.dirs }))
    };
    views.into_iter().map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn equal_texts_are_written_once_and_come_back_to_each() {
        let view = |text: &str| View {
            files: [("/etc/hosts".to_owned(), text.to_owned()), ("/etc/own".to_owned(), "own".to_owned())]
                .into(),
            dirs: vec!["/run".to_owned()],
        };
        let long = "10.0.0.1\tX X.base\n".repeat(100);
        let views = [("b.X", view(&long)), ("b.Y", view(&long)), ("v.v.a", view("short"))];
        let plan = Plan { views: views.map(|(ns, view)| (ns.to_owned(), view)).into(), ..Plan::default() };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(text.matches("X.base").count(), 100);
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn a_number_without_a_text_is_an_error() {
        let text = serde_json::to_string(&Plan::default()).unwrap();
        let empty = r#""views":{"texts":[],"views":{}}"#;
        assert!(text.contains(empty), "{text}");
        let wrong = r#""views":{"texts":[],"views":{"b.X":{"files":{"/etc/hosts":0},"dirs":[]}}}"#;
        assert!(serde_json::from_str::<Plan>(&text.replace(empty, wrong)).is_err());
    }
}
