//! Decides where everything of one run lives: folders, addresses, programs.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The caller's homeserver name.
pub const HOME: &str = "home.example";
/// The company's name.
pub const BANK: &str = "bank.example";

/// The addresses of one run. Each role has one of its own, because a PBX knows its trunk by source address.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Authoritative DNS.
    pub dns: IpAddr,
    /// `ahoyd` of [`HOME`].
    pub home: IpAddr,
    /// `ahoyd` of [`BANK`].
    pub bank: IpAddr,
    /// The bridge, towards the PBX.
    pub bridge: IpAddr,
    /// The desk phone.
    pub phone: IpAddr,
    /// Asterisk.
    pub pbx: IpAddr,
    /// The caller's client.
    pub client: IpAddr,
    /// The bridge, towards the caller.
    pub bridge_media: IpAddr,
}

impl Addresses {
    /// Loopback addresses that no other run on this machine uses: the process number picks the block.
    pub fn loopback(process: u32) -> Self {
        let (b, c) = (16 + process / 250 % 200, 1 + process % 250);
        let octet = |n: u32| u8::try_from(n).expect("below 256 by the arithmetic above");
        let at = |d: u8| IpAddr::V4(Ipv4Addr::new(127, octet(b), octet(c), d));
        Self {
            dns: at(53),
            home: at(11),
            bank: at(12),
            bridge: at(2),
            phone: at(3),
            pbx: at(1),
            client: at(21),
            bridge_media: at(22),
        }
    }
}

/// The folders and programs of one run.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The run's own folder.
    pub root: PathBuf,
    /// Where the built programs are.
    pub programs: PathBuf,
    /// The repository's `interop` folder.
    pub interop: PathBuf,
}

impl Layout {
    /// A fresh run folder; programs are taken from beside our own.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(root: PathBuf) -> anyhow::Result<Self> {
        for folder in ["logs", "home", "bank", "bridge/trunks.d", "caller", "support", "phone", "dns", "pbx"]
        {
            let path = root.join(folder);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let own = std::env::current_exe().context("our own program has a path")?;
        let mut programs = own.parent().context("a program lies in a folder")?.to_owned();
        if programs.ends_with("deps") {
            programs.pop();
        }
        let interop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop");
        Ok(Self { root, programs, interop })
    }

    /// A program of ours.
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// A path below the run folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The same as text.
    pub fn text(&self, relative: &str) -> String {
        self.path(relative).display().to_string()
    }

    /// Where logs go.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}
