//! A copy of the repository's configurations with certificates beside them, made for one test and removed after it: no
//! private key is in the repository, and messages about files are the same on every machine.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// The folders that are copied, and where certificates are put in the copy.
const COPIED: [&str; 4] = ["config", "certs", "tests/config/valid", "tests/config/invalid"];
const CERTIFICATES: [&str; 2] = ["tests/config/valid/certs", "tests/config/invalid/certs"];

/// The copy. It is kept where the test fails.
pub struct Tree(PathBuf);

impl Tree {
    /// Copies the configurations and makes certificates for them.
    pub fn new() -> Self {
        let tree = Self::without_certificates();
        CERTIFICATES.into_iter().for_each(|folder| put_certificates(&tree.path(folder)));
        let key = KeyPair::generate().expect("a key");
        write(&tree.path("certs"), "fullchain.pem", certificate(&key, 2019..4000).as_bytes());
        write(&tree.path("certs"), "clients.pem", certificate(&key, 2019..4000).as_bytes());
        write(&tree.path("certs"), "privkey.pem", key.serialize_pem().as_bytes());
        tree
    }

    /// Copies the configurations as they are in the repository.
    pub fn without_certificates() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tree-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // A process that had this one's id may have left one behind.
        let _ = fs::remove_dir_all(&root);
        COPIED.into_iter().for_each(|folder| copy(folder.as_ref(), &root.join(folder)));
        Self(root)
    }

    /// A file or folder of the copy, by its path in the repository.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// `text` with the paths of the repository in place of the copy's.
    pub fn relative(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Copies the files of a folder, by name only those that are in the repository: who works on it may have certificates.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the target folder can be written");
    for entry in fs::read_dir(from).expect("it is a folder of the repository") {
        let entry = entry.expect("its entry");
        let is_file = entry.file_type().expect("its type").is_file();
        if is_file && entry.path().extension().is_none_or(|e| e != "pem") {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("the file can be copied");
        }
    }
}

/// Certificates and keys of every kind that a configuration may name, sound ones and others.
fn put_certificates(folder: &Path) {
    let [key, other] = [(), ()].map(|()| KeyPair::generate().expect("a key"));
    let (chain, key_pem) = (certificate(&key, 2019..4000), key.serialize_pem());
    fs::create_dir_all(folder.join("folder")).expect("the copy can be written");
    write(folder, "chain.pem", chain.as_bytes());
    write(folder, "key.pem", key_pem.as_bytes());
    write(folder, "both.pem", format!("{chain}{key_pem}").as_bytes());
    write(folder, "other-key.pem", other.serialize_pem().as_bytes());
    write(folder, "expired.pem", certificate(&key, 2019..2020).as_bytes());
    write(folder, "future.pem", certificate(&key, 3999..4000).as_bytes());
    write(folder, "certificate.der", b"\x30\x82\x01\x0a\xff\xfe");
    write(folder, "text.pem", b"This is not what it is called.\n");
    write(folder, "cut.pem", b"-----BEGIN CERTIFICATE-----\nMIIB\n");
    write(folder, "cut-key.pem", b"-----BEGIN PRIVATE KEY-----\nMIIB\n");
    write(folder, "garbage.pem", b"-----BEGIN CERTIFICATE-----\nR2FyYmFnZQ==\n-----END CERTIFICATE-----\n");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\r\nMIIB\r\n-----END ENCRYPTED PRIVATE KEY-----\r\n";
    write(folder, "encrypted-key.pem", encrypted.as_bytes());
    let headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n";
    let encrypted = format!("-----BEGIN EC PRIVATE KEY-----\n{headers}\nMIIB\n-----END EC PRIVATE KEY-----\n");
    write(folder, "encrypted-old-key.pem", encrypted.as_bytes());
    write(folder, "garbage-key.pem", b"-----BEGIN PRIVATE KEY-----\nR2FyYmFnZQ==\n-----END PRIVATE KEY-----\n");
}

/// A certificate for localhost that signs itself, valid from one New Year to another.
fn certificate(key: &KeyPair, years: Range<i32>) -> String {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
    params.self_signed(key).expect("a certificate").pem()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("the copy can be written");
}
