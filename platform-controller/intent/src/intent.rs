//! The whole of the desired state, and changes to it.

use crate::{Change, Customer, Document, Invalid, Platform, Problem, diff, validate};
use edgeplex_types::Name;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Intent {
    pub platform: Option<(Name, Platform)>,
    pub customers: BTreeMap<Name, Customer>,
}

impl Intent {
    /// The intent with `documents` put in place of those of the same name, and what that changes.
    /// All documents are valid together with what is there already, or none is taken.
    pub fn apply(&self, documents: Vec<Document>) -> Result<(Self, Vec<Change>), Invalid> {
        let mut next = self.clone();
        let mut seen = BTreeSet::new();
        let mut problems = vec![];
        for document in documents {
            let called = format!("{} {}", document.kind(), document.name());
            if !seen.insert(called.clone()) {
                problems.push(Problem { document: called, field: "metadata.name".into(), message: "stands in the input twice".into() });
                continue;
            }
            match document {
                Document::Platform(r) => match &self.platform {
                    Some((name, _)) if *name != r.metadata.name => problems.push(Problem {
                        document: called,
                        field: "metadata.name".into(),
                        message: format!("this platform is called `{name}`; a platform cannot be renamed"),
                    }),
                    _ => next.platform = Some((r.metadata.name, r.spec)),
                },
                Document::Customer(r) => drop(next.customers.insert(r.metadata.name, r.spec)),
            }
        }
        problems.extend(validate(&next));
        if problems.is_empty() {
            let changes = diff::changes(self, &next);
            Ok((next, changes))
        } else {
            Err(Invalid(problems))
        }
    }

    /// The intent without these customers. An unknown name is a problem.
    pub fn without(&self, customers: &[Name]) -> Result<(Self, Vec<Change>), Invalid> {
        let mut next = self.clone();
        let unknown = |name: &Name| Problem {
            document: format!("Customer {name}"),
            field: "metadata.name".into(),
            message: format!("no such customer; there are: {}", list(self.customers.keys())),
        };
        let problems: Vec<Problem> = customers.iter().filter(|n| next.customers.remove(*n).is_none()).map(unknown).collect();
        if !problems.is_empty() {
            return Err(Invalid(problems));
        }
        let changes = diff::changes(self, &next);
        Ok((next, changes))
    }

    pub fn documents(&self) -> Vec<Document> {
        let platform = self.platform.iter().map(|(n, p)| Document::platform(n.clone(), p.clone()));
        platform.chain(self.customers.iter().map(|(n, c)| Document::customer(n.clone(), c.clone()))).collect()
    }
}

fn list<'a>(names: impl Iterator<Item = &'a Name>) -> String {
    let names: Vec<&str> = names.map(Name::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
