//! The static token file: CSV of token, user, uid and optional quoted groups.

use std::collections::HashMap;

use api::user::UserInfo;
use sha2::{Digest, Sha256};

/// Tokens by their hash: a look-up then tells nothing by its timing.
#[derive(Default)]
pub struct Tokens(HashMap<[u8; 32], UserInfo>);

impl Tokens {
    /// Reads the file's text; lines with fewer than three fields are skipped.
    pub fn parse(text: &str) -> Tokens {
        let rows = text.lines().map(fields).filter(|row| row.len() >= 3 && !row[0].is_empty());
        Tokens(
            rows.map(|row| {
                let groups = row.get(3).map(String::as_str).unwrap_or("");
                let groups =
                    groups.split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned).collect();
                let user =
                    UserInfo { name: row[1].clone(), uid: row[2].clone(), groups, ..UserInfo::default() };
                (Sha256::digest(&row[0]).into(), user)
            })
            .collect(),
        )
    }

    /// The user of a token.
    pub fn user(&self, token: &str) -> Option<UserInfo> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        self.0.get(&hash).cloned()
    }
}

fn fields(line: &str) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    out.push(field.trim().to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_groups_in_quotes() {
        let tokens = Tokens::parse("t1,alice,u1,\"a,b\"\nt2,bob,u2\nbad\n");
        assert_eq!(tokens.user("t1").expect("known").groups, ["a", "b"]);
        assert_eq!(tokens.user("t2").expect("known").name, "bob");
        assert!(tokens.user("bad").is_none());
    }
}
