//! The certificate that `certs/generate` makes is one that the gateway serves with and that clients accept.
#![allow(clippy::unwrap_used, reason = "clippy's own exception for tests knows only functions marked #[test]")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use spliceway::config::Config;
use support::process::run_to_end;
use support::tree::Tree;
use tokio_rustls::rustls;

mod support;

const MADE: [(&str, u32); 3] = [("fullchain.pem", 0o644), ("privkey.pem", 0o600), ("ca.pem", 0o644)];

/// Runs the script in the copy. Without openssl it fails, and so does the test: see CONTRIBUTING.md.
fn generate(tree: &Tree, arguments: &[&str]) -> Output {
    run_to_end(Command::new(tree.path("certs/generate")).args(arguments))
}

#[track_caller]
fn generated(tree: &Tree, arguments: &[&str]) {
    let output = generate(tree, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn certificates(tree: &Tree, name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(tree.path("certs").join(name)).unwrap().map(Result::unwrap).collect()
}

fn contents(tree: &Tree) -> Vec<Vec<u8>> {
    MADE.map(|(name, _)| fs::read(tree.path("certs").join(name)).unwrap()).into()
}

#[test]
fn the_example_of_everything_loads_with_it() {
    let tree = Tree::without_certificates();
    generated(&tree, &[]);
    let config = Config::load(&tree.path("config/gateway.toml")).unwrap_or_else(|error| panic!("{error}"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let valid = &config.listeners[0].tls.as_ref().unwrap().certificates()[0].valid;
    let left = valid.end.duration_since(SystemTime::now()).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert!((89 * day..=90 * day).contains(&left), "{left:?}");
}

#[test]
fn clients_that_trust_the_authority_accept_it_for_this_machine_alone() {
    let tree = Tree::without_certificates();
    generated(&tree, &[]);
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&tree, "ca.pem").remove(0)).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider())).build().unwrap();
    let chain = certificates(&tree, "fullchain.pem");
    let accepted = |name: &'static str| {
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
    };
    for name in ["localhost", "127.0.0.1", "::1"] {
        accepted(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["example.com", "a.localhost", "127.0.0.2"] {
        assert!(accepted(name).is_err(), "{name}");
    }
}

#[test]
fn only_its_owner_reads_the_key_and_nothing_else_is_left() {
    let tree = Tree::without_certificates();
    generated(&tree, &[]);
    let mode = |name| fs::metadata(tree.path("certs").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(MADE.map(|(name, _)| (name, mode(name))), MADE);
    let mut names: Vec<_> = fs::read_dir(tree.path("certs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".gitignore", "README.md", "ca.pem", "fullchain.pem", "generate", "privkey.pem"]);
}

#[test]
fn what_is_there_is_overwritten_by_force_only() {
    let tree = Tree::without_certificates();
    generated(&tree, &[]);
    let before = contents(&tree);
    let refused = generate(&tree, &[]);
    let words = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(words.ends_with("ca.pem is there already; --force makes all of them anew\n"), "{words}");
    assert_eq!(contents(&tree), before);

    generated(&tree, &["--force"]);
    assert!(contents(&tree).iter().zip(&before).all(|(new, old)| new != old));
    assert_eq!(generate(&tree, &["--forcibly"]).status.code(), Some(64));
}
