//! Debian packages, fetched and unpacked without installing anything.
//!
//! ```text
//!   apt-cache show ─► Stanza ─► apt-get download ─► dpkg-deb -x ─► <work>/unpacked/<package>/
//! ```
//!
//! The machine's own package lists are used when they know the package. Where they are missing or
//! out of date, a private copy is made in the working folder, which takes no root and leaves the
//! machine's lists alone. apt checks every package against the archive's signature.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Step;
use crate::tool::Tool;

const NETWORK_LIMIT: Duration = Duration::from_secs(900);
const NETWORK_HINT: &str =
    "check this machine's network and package sources: `sudo apt-get update` must succeed";

/// What apt says about a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stanza {
    pub package: String,
    pub version: String,
    /// Bytes of the package file.
    pub size: u64,
    /// Names from Pre-Depends and Depends: the first of each set of alternatives.
    pub depends: Vec<String>,
}

/// A package's files.
pub(crate) struct Unpacked {
    pub stanza: Stanza,
    pub root: PathBuf,
}

/// The host's package manager, working in a folder of ours.
pub(crate) struct Apt<'a> {
    work: &'a Path,
    progress: &'a mut dyn FnMut(Step),
    lists: Lists,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    Machine,
    Private,
}

impl<'a> Apt<'a> {
    /// Works in `work`, which exists; packages stay there until it is removed.
    pub fn new(work: &'a Path, progress: &'a mut dyn FnMut(Step)) -> Self {
        Self { work, progress, lists: Lists::Machine }
    }

    /// Does `job`, which finds and fetches packages, and once more with fresh lists where the
    /// machine's do not know a package or name a file that is gone from the archive.
    ///
    /// All of the job is done again: the package that stands for the newest kernel may name
    /// another one now.
    pub fn with_fresh_lists_if_needed<T>(
        &mut self,
        job: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<T> {
        match job(self) {
            Err(first) if first.kind() == ErrorKind::PackageUnavailable => {
                match self.use_private_lists().and_then(|()| job(self)) {
                    // Without a network both fail, and the first says what was wanted.
                    Err(second) if second.kind() == ErrorKind::PackageUnavailable => Err(first),
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }

    /// Returns the newest version's description of the first of `packages` that is known.
    pub fn first_known(&self, packages: &[&str]) -> Result<Stanza> {
        for package in packages {
            if let Some(stanza) = self.show(package)? {
                return Ok(stanza);
            }
        }
        Err(Error::new(
            ErrorKind::PackageUnavailable,
            format!("no package {} in this machine's package sources", packages.join(" or ")),
        )
        .with_hint(NETWORK_HINT))
    }

    /// Downloads and unpacks what `stanza` describes.
    pub fn fetch(&mut self, stanza: &Stanza) -> Result<Unpacked> {
        let Stanza { package, size, .. } = stanza;
        (self.progress)(Step::Downloading { package: package.clone(), bytes: *size });
        let deb = self.download(stanza).map_err(|cause| {
            Error::new(ErrorKind::PackageUnavailable, format!("download package {package}"))
                .because(cause)
                .with_hint(NETWORK_HINT)
        })?;
        (self.progress)(Step::Unpacking { package: package.clone() });
        let root = self.work.join("unpacked").join(package);
        fs::create_dir_all(&root).map_err(Error::io("make the folder for a package's files"))?;
        Tool::find("dpkg-deb", "dpkg")?
            .arg("-x")
            .arg(&deb)
            .arg(&root)
            .limit(NETWORK_LIMIT)
            .output()?;
        fs::remove_file(&deb).map_err(Error::io("remove a downloaded package"))?;
        Ok(Unpacked { stanza: stanza.clone(), root })
    }

    fn show(&self, package: &str) -> Result<Option<Stanza>> {
        let show = self.tool("apt-cache")?.args(["show", "--no-all-versions", package]);
        match show.output() {
            Ok(text) => Ok(parse_stanza(&String::from_utf8_lossy(&text))),
            // apt-cache ends with 100 both for an unknown package and for lists it cannot read;
            // fresh lists answer either.
            Err(error) if error.kind() == ErrorKind::ToolFailed => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn download(&self, stanza: &Stanza) -> Result<PathBuf> {
        let folder = self.work.join("debs");
        fs::create_dir_all(&folder).map_err(Error::io("make the folder for downloads"))?;
        self.tool("apt-get")?
            .args(["download", &format!("{}={}", stanza.package, stanza.version)])
            .current_dir(&folder)
            .limit(NETWORK_LIMIT)
            .output()?;
        find_deb(&folder, &stanza.package)
    }

    fn use_private_lists(&mut self) -> Result<()> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.work.join(folder))
                .map_err(Error::io("make the folder for package lists"))?;
        }
        self.lists = Lists::Private;
        (self.progress)(Step::ReadingPackageLists);
        self.tool("apt-get")?.arg("update").limit(NETWORK_LIMIT).output().map(drop).map_err(
            |cause| {
                Error::new(ErrorKind::PackageUnavailable, "read this machine's package lists")
                    .because(cause)
                    .with_hint(NETWORK_HINT)
            },
        )
    }

    fn tool(&self, name: &'static str) -> Result<Tool> {
        // Downloads land in a folder of this user; apt's own unprivileged user cannot write there.
        let mut tool = Tool::find(name, "apt")?.args([
            "-o",
            "APT::Sandbox::User=",
            "-o",
            "Acquire::Retries=2",
            "-o",
            "Acquire::http::Timeout=30",
            "-o",
            "Acquire::https::Timeout=30",
        ]);
        if self.lists == Lists::Private {
            for (option, folder) in [("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")] {
                let path = self.work.join(folder);
                tool = tool.arg("-o").arg(format!("{option}={}", path.display()));
            }
        }
        Ok(tool)
    }
}

fn find_deb(folder: &Path, package: &str) -> Result<PathBuf> {
    let prefix = format!("{package}_");
    fs::read_dir(folder)
        .map_err(Error::io("list the downloads"))?
        .filter_map(|entry| entry.ok())
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::ToolFailed,
                format!("apt-get download left no file for {package}"),
            )
        })
}

/// Reads the first stanza of `apt-cache show`; `None` without Package and Version.
fn parse_stanza(text: &str) -> Option<Stanza> {
    let mut stanza = Stanza::default();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        let Some((field, value)) = line.split_once(": ") else { continue };
        match field {
            "Package" => stanza.package = value.to_owned(),
            "Version" => stanza.version = value.to_owned(),
            "Size" => stanza.size = value.parse().unwrap_or(0),
            "Pre-Depends" | "Depends" => stanza.depends.extend(parse_relations(value)),
            _ => {}
        }
    }
    (!stanza.package.is_empty() && !stanza.version.is_empty()).then_some(stanza)
}

/// Names in a relationship field, without versions, architectures and second choices.
fn parse_relations(field: &str) -> impl Iterator<Item = String> + '_ {
    field
        .split(',')
        .filter_map(|relation| relation.split(['|', '(', '[']).next())
        .map(|name| name.trim().split(':').next().unwrap_or_default().to_owned())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_kernel_package_names_the_image_it_stands_for() {
        let stanza = parse_stanza(
            "Package: linux-image-amd64\nSource: linux-signed-amd64 (6.1.192+2)\nVersion: 6.1.192-2\n\
             Provides: linux-image-generic\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n\
             Description: Linux for 64-bit PCs (meta-package)\nSize: 1480\n\nPackage: other\n",
        )
        .unwrap();
        assert_eq!(stanza.package, "linux-image-amd64");
        assert_eq!(stanza.version, "6.1.192-2");
        assert_eq!(stanza.size, 1480);
        assert_eq!(stanza.depends, ["linux-image-6.1.0-56-amd64"]);
    }

    #[test]
    fn ubuntus_kernel_package_names_its_modules_too() {
        let stanza = parse_stanza(
            "Package: linux-image-generic\nVersion: 6.8.0-31.31\n\
             Depends: linux-image-6.8.0-31-generic, linux-modules-extra-6.8.0-31-generic, \
             linux-firmware, intel-microcode | other, amd64-microcode:any (>= 3)\n",
        )
        .unwrap();
        assert_eq!(
            stanza.depends,
            [
                "linux-image-6.8.0-31-generic",
                "linux-modules-extra-6.8.0-31-generic",
                "linux-firmware",
                "intel-microcode",
                "amd64-microcode"
            ]
        );
    }

    #[test]
    fn text_without_a_version_is_no_stanza() {
        assert_eq!(parse_stanza(""), None);
        assert_eq!(parse_stanza("Package: x\n\nVersion: 1\n"), None);
    }
}
