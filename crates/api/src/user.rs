//! Who makes a request, after authentication.

use std::collections::BTreeMap;

/// An authenticated user. In the extensions of an in-process request it is taken as given: only code of this
/// process can put it there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, such as `system:kube-scheduler`.
    pub name: String,
    /// The user's stable id; may be empty.
    pub uid: String,
    /// The groups the user belongs to.
    pub groups: Vec<String>,
    /// Further facts from the authenticator.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user who is a component of this process: in `system:authenticated` and `groups`.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let mut all: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        all.push("system:authenticated".to_owned());
        UserInfo { name: name.to_owned(), groups: all, ..UserInfo::default() }
    }

    /// A service account's user.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        UserInfo::component(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")],
        )
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..UserInfo::default()
        }
    }

    /// Namespace and name when this is a service account.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// True when the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}
