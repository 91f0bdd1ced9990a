//! The initramfs of a guest: busybox, the programs under test with their libraries, the drivers, and the
//! script.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::directory;
use super::packages::Kernel;
use super::scenarios::Guest;
use crate::command::{find_program, output, run};

/// The script that every guest runs first.
const SCRIPT: &str = include_str!("guest.sh");
/// Programs of this machine that the script uses.
const PROGRAMS: [&str; 3] = ["busybox", "ip", "ethtool"];
/// busybox's commands that the script uses.
const APPLETS: [&str; 17] = [
    "sh", "mount", "insmod", "cat", "echo", "grep", "sed", "usleep", "kill", "sleep", "dmesg", "poweroff",
    "ls", "head", "wc", "mkdir", "awk",
];

/// An initramfs, compressed.
pub(super) struct Image {
    /// The file.
    pub(super) path: PathBuf,
}

impl Image {
    /// Makes the initramfs of a guest that boots `kernel` and runs `binary`.
    pub(super) fn make(guest: &Guest, kernel: &Kernel, binary: &Path) -> Result<Self> {
        let root = directory().join(format!("{}.root", guest.name));
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for path in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "lib/modules"] {
            fs::create_dir_all(root.join(path))?;
        }
        let mut libraries = BTreeSet::new();
        for name in PROGRAMS {
            let program = find_program(name).with_context(|| format!("there is no {name}"))?;
            libraries.extend(libraries_of(&program));
            fs::copy(&program, root.join("bin").join(name))?;
        }
        libraries.extend(libraries_of(binary));
        let stripped = root.join("bin/mirror-xdp");
        run(Command::new("strip").arg("-o").args([&stripped, binary]))?;
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        for library in libraries {
            let to = root.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(to.parent().context("a library is in a directory")?)?;
            fs::copy(&library, to).with_context(|| format!("cannot copy {}", library.display()))?;
        }
        let modules = Modules::of(&kernel.modules)?.copy(guest.modules, &root.join("lib/modules"))?;
        fs::write(root.join("modules"), modules.join("\n"))?;
        fs::write(root.join("init"), format!("#!/bin/sh\n{SCRIPT}\n{}\n{END}", guest.script))?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let path = directory().join(format!("{}.initramfs", guest.name));
        pack(&root, &path)?;
        fs::remove_dir_all(&root)?;
        Ok(Self { path })
    }
}

/// The script that every guest runs last: it prints the kernel's complaints and the end mark, and powers off.
const END: &str = "\
dmesg | grep -E 'WARNING:|BUG:|Oops|Call Trace|general protection' | sed 's/^/::kernel /'
echo ::end
poweroff -f
";

/// Returns the shared libraries that the loader maps for a program.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let said = output(Command::new("ldd").arg(program)).unwrap_or_default();
    // `libc.so.6 => /lib/…/libc.so.6 (0x…)`; for the loader itself, only the path.
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Packs a directory into a compressed cpio archive (newc), the format that the kernel unpacks.
fn pack(root: &Path, to: &Path) -> Result<()> {
    let mut files = Command::new("find").arg(".").current_dir(root).stdout(Stdio::piped()).spawn()?;
    let files = files.stdout.take().context("find has an output")?;
    let mut archive = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start busybox")?;
    let bytes = archive.stdout.take().context("cpio has an output")?;
    let compressed = Command::new("gzip").arg("-1").stdin(bytes).stdout(File::create(to)?).status()?;
    ensure!(archive.wait()?.success() && compressed.success(), "cannot pack {}", root.display());
    Ok(())
}

/// The modules of a kernel.
struct Modules(Vec<PathBuf>);

impl Modules {
    fn of(directory: &Path) -> Result<Self> {
        let mut found = Vec::new();
        let mut directories = vec![directory.to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".ko")) {
                    found.push(path);
                }
            }
        }
        Ok(Self(found))
    }

    /// Unpacks the named modules and their dependencies; returns the files in an order in which they can be
    /// loaded.
    fn copy(&self, names: &[&str], to: &Path) -> Result<Vec<String>> {
        let mut order = Vec::new();
        for name in names {
            self.copy_one(name, to, &mut order)?;
        }
        Ok(order)
    }

    fn copy_one(&self, name: &str, to: &Path, order: &mut Vec<String>) -> Result<()> {
        let file = format!("{name}.ko");
        if order.contains(&file) {
            return Ok(());
        }
        // A dash in a file name is an underscore in the module's name.
        let is_it = |path: &&PathBuf| {
            let found = path.file_name().map(|found| found.to_string_lossy().replace('-', "_"));
            found.is_some_and(|found| found.split(".ko").next() == Some(&name.replace('-', "_")))
        };
        // A module without a file is built into the kernel.
        let Some(path) = self.0.iter().find(is_it) else { return Ok(()) };
        let bytes = match path.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => Command::new("xz").arg("-dc").arg(path).output().context("cannot start xz")?.stdout,
            Some("zst") => {
                Command::new("zstd").arg("-dc").arg(path).output().context("cannot start zstd")?.stdout
            }
            Some("ko") => fs::read(path)?,
            _ => bail!("{} is compressed in an unknown way", path.display()),
        };
        ensure!(!bytes.is_empty(), "cannot read {}", path.display());
        for needed in needs(&bytes) {
            self.copy_one(&needed, to, order)?;
        }
        fs::write(to.join(&file), bytes)?;
        order.push(file);
        Ok(())
    }
}

/// Returns the modules that a module needs: the value of `depends=` in its `.modinfo`, which ends with a zero
/// byte.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value: Vec<u8> = module[start + KEY.len()..].iter().copied().take_while(|&byte| byte != 0).collect();
    let value = String::from_utf8_lossy(&value).into_owned();
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
