//! Who a process runs as: docker's rules over the container's own /etc/passwd and /etc/group.
//!
//! | given | uid | gid | supplementary groups |
//! |---|---|---|---|
//! | nothing | 0 | of the entry with uid 0, else 0 | of that user |
//! | `name` | of the entry, which must be there | of the entry | of that user |
//! | `uid` | as given | of the entry, else 0 | of that user where there is one |
//! | `…:group`, `…:gid` | as above | as given | none |

use ireko_protocol::agent::FailureKind;

use crate::failure::{Failure, Result};
use crate::rooted::Root;

/// The largest of either file that is read.
const FILE_LIMIT: u64 = 16 << 20;

/// The numbers a process runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder; `/` where the user has no entry.
    pub home: String,
}

/// Looks a `user[:group]` up in the files of the root.
///
/// `further` are names or numbers of more supplementary groups.
pub fn look_up(root: &Root, wanted: &str, further: &[String]) -> Result<Identity> {
    let passwd = root.read_text("/etc/passwd", FILE_LIMIT).unwrap_or_default();
    let group = root.read_text("/etc/group", FILE_LIMIT).unwrap_or_default();
    let mut identity = resolve(wanted, &passwd, &group)?;
    for name in further {
        let gid = group_number(name, &group)?;
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

fn group_number(name: &str, group: &str) -> Result<u32> {
    let named = || group.lines().filter_map(Group::parse).find(|group| group.name == name);
    let number = id_number(name).or_else(|| named().map(|group| group.gid));
    number.ok_or_else(|| no_such("group", name, "group"))
}

fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Identity> {
    let (user_part, group_part) = wanted.split_once(':').unwrap_or((wanted, ""));
    // A number is always a uid, even where a user is named so.
    let number = if user_part.is_empty() { Some(0) } else { id_number(user_part) };
    let user = passwd.lines().filter_map(User::parse).find(|user| match number {
        Some(uid) => user.uid == uid,
        None => user.name == user_part,
    });
    let mut identity = match (&user, number) {
        (Some(user), _) => Identity {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
            home: if user.home.is_empty() { "/".into() } else { user.home.into() },
        },
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => return Err(no_such("user", user_part, "passwd")),
    };
    if !group_part.is_empty() {
        identity.gid = group_number(group_part, group)?;
    } else if let Some(user) = user {
        let groups = group.lines().filter_map(Group::parse);
        identity.groups =
            groups.filter(|group| group.has_member(user.name)).map(|group| group.gid).collect();
    }
    Ok(identity)
}

fn no_such(what: &str, name: &str, file: &str) -> Failure {
    Failure::new(
        FailureKind::NoSuch,
        format!("unable to find {what} {name}: no matching entries in {file} file"),
    )
}

/// A decimal id; -1 is no id in Linux, so the largest number is none.
fn id_number(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| *id <= i32::MAX as u32)
}

/// One line of passwd(5).
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> User<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

/// One line of group(5).
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }

    fn has_member(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\nbroken line\n\
        www:x:33:33:web:/var/www:/usr/sbin/nologin\n\
        nohome:x:40:41::\n\
        77:x:500:500::/seventy:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\ndisk:x:6:root,www\naudio:x:29:www\nnobody\n";

    #[track_caller]
    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expected = Identity { uid, gid, groups: groups.to_vec(), home: home.into() };
        assert_eq!(resolve(wanted, PASSWD, GROUP), Ok(expected), "{wanted:?}");
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        check("", 0, 0, &[6], "/root");
        check("root", 0, 0, &[6], "/root");
        check("www", 33, 33, &[6, 29], "/var/www");
        check("33", 33, 33, &[6, 29], "/var/www");
        check("nohome", 40, 41, &[], "/");
        check("1234", 1234, 0, &[], "/");
        check("77", 77, 0, &[], "/");
        check("www:disk", 33, 6, &[], "/var/www");
        check("www:1000", 33, 1000, &[], "/var/www");
        check("1234:audio", 1234, 29, &[], "/");
        check(":audio", 0, 29, &[], "/root");
    }

    #[test]
    fn an_image_without_the_files_still_has_numbers() {
        let unknown = Identity { uid: 0, gid: 0, groups: vec![], home: "/".into() };
        assert_eq!(resolve("", "", ""), Ok(unknown));
        assert_eq!(resolve("5:6", "", "").unwrap().gid, 6);
    }

    #[test]
    fn a_further_group_is_a_number_or_a_name() {
        assert_eq!(group_number("1000", GROUP), Ok(1000));
        assert_eq!(group_number("audio", GROUP), Ok(29));
        assert!(group_number("staff", GROUP).is_err());
    }

    #[test]
    fn an_unknown_name_is_refused_in_dockers_words() {
        let message = |wanted| resolve(wanted, PASSWD, GROUP).unwrap_err().message;
        assert_eq!(
            message("alice"),
            "unable to find user alice: no matching entries in passwd file"
        );
        assert_eq!(
            message("www:staff"),
            "unable to find group staff: no matching entries in group file"
        );
        assert_eq!(
            message("4294967295"),
            "unable to find user 4294967295: no matching entries in passwd file"
        );
    }
}
