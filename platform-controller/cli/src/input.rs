//! What the operator gives: files, or the words of `customer create`.

use crate::error::Stop;
use edgeplex_api::plain;
use edgeplex_intent::{API_VERSION, Document, MAX_TEXT, parse};
use edgeplex_types::{AttachmentId, Name};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Documents, and the text to send.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) text: String,
    pub(crate) documents: Vec<Document>,
}

impl Input {
    pub(crate) fn has_platform(&self) -> bool {
        self.documents.iter().any(|d| matches!(d, Document::Platform(_)))
    }

    pub(crate) fn has_customer(&self, name: &Name) -> bool {
        self.documents.iter().any(|d| matches!(d, Document::Customer(c) if c.name == *name))
    }

    pub(crate) fn attachments(&self) -> Vec<AttachmentId> {
        let customers = self.documents.iter().filter_map(|d| match d {
            Document::Customer(c) => Some(c),
            Document::Platform(_) => None,
        });
        let of = |c: &Name, a: &Name| AttachmentId { customer: c.clone(), attachment: a.clone() };
        customers.flat_map(|c| c.attachments.iter().map(move |a| of(&c.name, &a.name))).collect()
    }

    pub(crate) fn customers_to_delete(&self) -> Result<Vec<Name>, Stop> {
        let name = |d: &Document| match d {
            Document::Customer(c) => Ok(c.name.clone()),
            Document::Platform(_) => Err(Stop::Refused(format!("{}: a platform cannot be deleted; give files of customers", d.title()))),
        };
        self.documents.iter().map(name).collect()
    }
}

/// All files as one input. Each is read by itself first, so that an error names its file.
pub(crate) fn read_files(paths: &[PathBuf]) -> Result<Input, Stop> {
    let (mut texts, mut documents) = (vec![], vec![]);
    for path in paths {
        let text = read_file(path)?;
        documents.extend(parse(&text).map_err(|e| Stop::Refused(format!("{}: {e}", title(path))))?);
        texts.push(text);
    }
    Ok(Input { text: texts.join("\n---\n"), documents })
}

fn title(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn read_file(path: &Path) -> Result<String, Stop> {
    let read = || -> io::Result<String> {
        // One byte more than is allowed, so that what is too long is seen to be.
        let limit = u64::try_from(MAX_TEXT).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = vec![];
        if path == Path::new("-") {
            io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
        } else {
            File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        }
        String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8 text"))
    };
    read().map_err(|e| Stop::Refused(format!("{}: {}", title(path), plain(&e))))
}

/// The document that `customer create` stands for.
pub(crate) fn new_customer(name: &Name, import: &[String], export: &[String], attachments: &[String]) -> Result<Input, Stop> {
    let attachments: Vec<Value> = attachments.iter().map(|a| attachment(a)).collect::<Result<_, _>>()?;
    let text = json!({
        "apiVersion": API_VERSION,
        "kind": "Customer",
        "metadata": {"name": name},
        "spec": {"vpn": {"import": import, "export": export}, "attachments": attachments},
    })
    .to_string();
    let documents = parse(&text)?;
    Ok(Input { text, documents })
}

const KEYS: [&str; 13] =
    ["name", "port", "vlan", "address", "address6", "mtu", "rd", "label", "neighbor", "remote-as", "max-prefix", "hold-time", "static"];

fn attachment(words: &str) -> Result<Value, Stop> {
    let wrong = |word: &str, right: String| Stop::Refused(format!("--attachment: `{word}`: {right}"));
    let (mut fields, mut bgp, mut routes) = (Map::new(), Map::new(), vec![]);
    for word in words.split(',').filter(|w| !w.is_empty()) {
        let (key, value) = word.split_once('=').ok_or_else(|| wrong(word, "must be KEY=VALUE".into()))?;
        let before = match key {
            "name" | "port" | "address" | "address6" | "rd" => fields.insert(key.into(), value.into()),
            "vlan" | "mtu" | "label" => fields.insert(key.into(), number(value)),
            "neighbor" => bgp.insert(key.into(), value.into()),
            "remote-as" => bgp.insert("remoteAs".into(), number(value)),
            "max-prefix" => bgp.insert("maxPrefix".into(), number(value)),
            "hold-time" => bgp.insert("holdTime".into(), number(value)),
            "static" => {
                let (prefix, via) = value.split_once('@').ok_or_else(|| wrong(word, "must be static=PREFIX@NEXTHOP".into()))?;
                routes.push(json!({"prefix": prefix, "via": via}));
                None
            }
            _ => return Err(wrong(word, format!("unknown key; known are {}", KEYS.join(", ")))),
        };
        if before.is_some() {
            return Err(wrong(word, "is given twice".into()));
        }
    }
    if !bgp.is_empty() {
        fields.insert("bgp".into(), Value::Object(bgp));
    }
    if !routes.is_empty() {
        fields.insert("static".into(), Value::Array(routes));
    }
    Ok(Value::Object(fields))
}

/// What is no number is left to the reader of documents, who says what would be right.
fn number(value: &str) -> Value {
    value.parse::<u64>().map_or_else(|_| value.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(words: &str) -> Result<Input, Stop> {
        new_customer(&"acme".parse().unwrap(), &["65000:1".into()], &["65000:1".into()], &[words.into()])
    }

    #[test]
    fn words_become_a_document() {
        let words = "name=d1,port=eth2,vlan=100,address=192.168.1.1/30,neighbor=192.168.1.2,remote-as=65101,rd=65000:7,max-prefix=9,static=10.9.0.0/16@192.168.1.2";
        let input = create(words).unwrap();
        let Document::Customer(c) = &input.documents[0] else { panic!("{input:?}") };
        let a = &c.attachments[0];
        assert_eq!((a.vlan.unwrap().get(), a.static_routes.len()), (100, 1));
        assert_eq!((a.bgp[0].remote_as, a.bgp[0].max_prefix.unwrap().limit), (65101, 9));
        assert_eq!(input.attachments(), ["acme/d1".parse().unwrap()]);
        assert_eq!(input.customers_to_delete().unwrap(), ["acme".parse().unwrap()]);
    }

    #[test]
    fn mistakes_are_named() {
        for (words, says) in [
            ("name", "`name`: must be KEY=VALUE"),
            ("nme=x", "`nme=x`: unknown key; known are name,"),
            ("name=x,name=y", "`name=y`: is given twice"),
            ("name=x,static=1", "must be static=PREFIX@NEXTHOP"),
            ("name=x,port=eth2,vlan=abc,address=1.2.3.1/24", "spec.attachments[0].vlan: `abc`: must be 1 to 4094"),
            ("name=x", "spec.attachments[0].port"),
        ] {
            match create(words) {
                Err(Stop::Refused(m)) => assert!(m.contains(says), "{words}: {m}"),
                other => panic!("{words}: {other:?}"),
            }
        }
    }
}
