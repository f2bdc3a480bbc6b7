//! Certificates of a listener: which one a client is shown, what it may speak, who may come, and what a reload makes of all
//! that. The judge is rustls on the client's side, which says what it was shown and what was agreed on.

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    SignatureScheme, SupportedProtocolVersion, version,
};
use serde_json::Value;
use spliceway::config::Config;
use spliceway::expiry::Daily;
use support::backend::{self, Backend};
use support::client::{Client, opening_handshake};
use support::gateway::{Folder, Gateway, Signal};
use support::peer::{Peer, header_lines, text};
use support::tls::secure_for;
use tokio_rustls::rustls;

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const NEW: &[&SupportedProtocolVersion] = &[&version::TLS13];
const OLD: &[&SupportedProtocolVersion] = &[&version::TLS12];
const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

/// A certificate and its key, as files.
struct Pair {
    der: CertificateDer<'static>,
    table: String,
    key: KeyPair,
}

fn rsa_key() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key")
}

fn ecdsa_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// A certificate for these names, signed by itself.
fn pair(folder: &Folder, file: &str, names: &[&str], key: KeyPair) -> Pair {
    pair_until(folder, file, names, key, SystemTime::now() + Duration::from_secs(90 * 24 * 60 * 60))
}

fn pair_until(folder: &Folder, file: &str, names: &[&str], key: KeyPair, until: SystemTime) -> Pair {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = (until - Duration::from_secs(190 * 24 * 60 * 60)).into();
    params.not_after = until.into();
    let certificate = params.self_signed(&key).expect("a certificate");
    let paths = [
        folder.put(&format!("{file}.pem"), certificate.pem()),
        folder.put(&format!("{file}.key"), key.serialize_pem()),
    ];
    let table = format!("{{ certificate = {:?}, key = {:?} }}", paths[0], paths[1]);
    Pair { der: certificate.der().clone(), table, key }
}

/// A gateway with a listener that speaks TLS so; its routes say which host was asked.
fn start(tls: &str) -> Gateway {
    Gateway::start(&file(tls))
}

fn file(tls: &str) -> String {
    format!(
        "[[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n[listener.tls]\n{tls}\n\
         [[route]]\nrespond = {{ status = 200, body = \"here\" }}\n"
    )
}

/// The lines of `[listener.tls]` for these, the first of them the default.
fn certificates(pairs: &[&Pair]) -> String {
    let tables: Vec<_> = pairs.iter().map(|pair| pair.table.as_str()).collect();
    format!("certificates = [{}]", tables.join(", "))
}

/// A client that takes any certificate and looks at it later.
#[derive(Debug)]
struct Curious(CryptoProvider, Vec<SignatureScheme>);

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.clone()
    }
}

/// What a client can do, and the certificate that it shows.
struct Can {
    provider: CryptoProvider,
    versions: &'static [&'static SupportedProtocolVersion],
    schemes: Vec<SignatureScheme>,
    shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
}

impl Default for Can {
    fn default() -> Self {
        Self { provider: default_provider(), versions: BOTH, schemes: vec![RSA, ECDSA], shows: None }
    }
}

impl Can {
    fn config(self) -> Arc<ClientConfig> {
        let verifier = Arc::new(Curious(self.provider.clone(), self.schemes));
        let builder = ClientConfig::builder_with_provider(Arc::new(self.provider));
        let builder = builder.with_protocol_versions(self.versions).expect("the provider has them");
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        Arc::new(match self.shows {
            Some((chain, key)) => builder.with_client_auth_cert(vec![chain], key).expect("a key"),
            None => builder.with_no_client_auth(),
        })
    }
}

fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Peer> {
    secure_for(Client::connect(address), config, name)
}

/// The certificate that a client of that name is shown.
fn shown(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> CertificateDer<'static> {
    let peer = connect(address, config, name).expect("a TLS handshake");
    let connection = peer.tls().connection();
    connection.peer_certificates().expect("certificates")[0].clone().into_owned()
}

/// The whole answer's status and text.
fn ask(peer: &mut Peer, host: &str) -> (u16, String) {
    peer.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = peer.read_answer();
    (answer.status, answer.text().to_owned())
}

/// Why a TLS handshake failed, or what came in the place of the first answer.
fn alert(result: std::io::Result<Peer>) -> Option<AlertDescription> {
    let error = match result {
        Err(error) => error,
        // In TLS 1.3 a client is done before it is heard what the server makes of its certificate.
        Ok(mut peer) => {
            peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            peer.try_read_some().expect_err("it is refused")
        }
    };
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[test]
fn a_client_is_shown_the_certificate_for_the_name_that_it_asks_for() {
    let folder = Folder::new();
    let a = pair(&folder, "a", &["a.example"], ecdsa_key());
    let b = pair(&folder, "b", &["b.example", "*.b.example"], ecdsa_key());
    let c = pair(&folder, "c", &["c.b.example"], ecdsa_key());
    let gateway = start(&certificates(&[&a, &b, &c]));
    let (address, any) = (gateway.address("secure"), Can::default().config());
    for (name, expected) in [
        ("a.example", &a),
        ("A.Example", &a),
        ("b.example", &b),
        ("x.b.example", &b),
        ("c.b.example", &c),
        ("y.x.b.example", &a),
        ("other.example", &a),
        // No name is sent for an address.
        ("127.0.0.1", &a),
    ] {
        assert!(shown(address, &any, name) == expected.der, "another certificate for {name}");
    }
    gateway.stop();
}

#[test]
fn of_an_ecdsa_and_an_rsa_certificate_a_client_is_shown_the_one_that_it_can_verify() {
    let folder = Folder::new();
    let rsa = pair(&folder, "rsa", &["a.example"], rsa_key());
    let ecdsa = pair(&folder, "ecdsa", &["a.example"], ecdsa_key());
    let gateway = start(&certificates(&[&rsa, &ecdsa]));
    let address = gateway.address("secure");
    // Before TLS 1.3 a cipher suite has its kind of key, whatever the schemes say.
    let rsa_suites = CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256],
        ..default_provider()
    };
    for (can, expected) in [
        (Can::default(), &ecdsa),
        (Can { versions: OLD, ..Can::default() }, &ecdsa),
        (Can { schemes: vec![ECDSA], ..Can::default() }, &ecdsa),
        (Can { schemes: vec![RSA], ..Can::default() }, &rsa),
        (Can { provider: rsa_suites, versions: OLD, ..Can::default() }, &rsa),
    ] {
        let config = can.config();
        for name in ["a.example", "127.0.0.1"] {
            assert!(shown(address, &config, name) == expected.der, "another certificate for {name} and {config:?}");
        }
    }
    gateway.stop();
}

#[test]
fn a_version_a_cipher_suite_and_a_group_are_those_that_are_configured() {
    let folder = Folder::new();
    let pair = pair(&folder, "a", &["localhost"], ecdsa_key());
    let agreed = |tls: &str, can: Can| {
        let gateway = start(&format!("{}\n{tls}", certificates(&[&pair])));
        let peer = connect(gateway.address("secure"), &can.config(), "localhost");
        let agreed = peer.as_ref().ok().map(|peer| {
            let connection = peer.tls().connection();
            let group = connection.negotiated_key_exchange_group().expect("a group").name();
            (connection.protocol_version(), connection.negotiated_cipher_suite().expect("one").suite(), group)
        });
        let alert = if peer.is_err() { alert(peer) } else { None };
        gateway.stop();
        agreed.ok_or(alert)
    };
    let old = || Can { versions: OLD, ..Can::default() };
    let (new, refused) = (Some(rustls::ProtocolVersion::TLSv1_3), Some(AlertDescription::ProtocolVersion));
    assert_eq!(agreed("minimum_version = \"1.3\"", old()), Err(refused));
    assert_eq!(agreed("", old()).expect("it is served").0, Some(rustls::ProtocolVersion::TLSv1_2));
    assert_eq!(agreed("minimum_version = \"1.3\"", Can::default()).expect("it is served").0, new);
    let suites = "cipher_suites = [\"TLS13_CHACHA20_POLY1305_SHA256\", \"TLS13_AES_256_GCM_SHA384\"]";
    let suite = agreed(suites, Can::default()).expect("it is served").1;
    assert_eq!(suite, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    assert!(agreed(suites, old()).is_err(), "none of them is of TLS 1.2");
    let groups = "groups = [\"secp384r1\"]";
    assert_eq!(agreed(groups, Can::default()).expect("it is served").2, NamedGroup::secp384r1);
    let other = CryptoProvider { kx_groups: vec![kx_group::SECP256R1], ..default_provider() };
    let none = Can { provider: other, ..Can::default() };
    assert_eq!(agreed(groups, none), Err(Some(AlertDescription::HandshakeFailure)));
}

/// Many connections, so that every worker has some: a ticket of one is good at the other.
#[test]
fn tickets_are_good_at_every_worker_and_there_are_none_where_they_are_switched_off() {
    let folder = Folder::new();
    let pair = pair(&folder, "a", &["localhost"], ecdsa_key());
    for (tickets, expected) in [(true, HandshakeKind::Resumed), (false, HandshakeKind::Full)] {
        for versions in [NEW, OLD] {
            let gateway = Gateway::start(&format!(
                "[gateway]\nworkers = 4\n{}",
                file(&format!("{}\ntickets = {tickets}", certificates(&[&pair])))
            ));
            let config = Can { versions, ..Can::default() }.config();
            let mut kinds = (0..30).map(|_| {
                let mut peer = connect(gateway.address("secure"), &config, "localhost").expect("it is served");
                assert_eq!(ask(&mut peer, "localhost").1, "here");
                let kind = peer.tls().connection().handshake_kind();
                kind.expect("it is done")
            });
            assert_eq!(kinds.next(), Some(HandshakeKind::Full));
            assert!(kinds.all(|kind| kind == expected), "tickets = {tickets}, {versions:?}");
            gateway.stop();
        }
    }
}

#[test]
fn a_request_for_another_host_than_the_connection_was_opened_for_is_misdirected() {
    let folder = Folder::new();
    let a = pair(&folder, "a", &["a.example", "*.a.example"], ecdsa_key());
    let b = pair(&folder, "b", &["b.example"], ecdsa_key());
    let both = pair(&folder, "both", &["c.example", "d.example"], ecdsa_key());
    let one = pair(&folder, "one", &["c.example", "e.example"], rsa_key());
    let gateway = start(&certificates(&[&a, &b, &both, &one]));
    let any = Can::default().config();
    for (name, host, expected) in [
        ("a.example", "a.example", 200),
        ("a.example", "A.example:443", 200),
        ("a.example", "x.a.example", 200),
        ("a.example", "b.example", 421),
        ("b.example", "a.example", 421),
        ("b.example", "b.example.", 200),
        // Of no certificate, and yet what was asked for.
        ("other.example", "other.example", 200),
        ("other.example", "a.example", 200),
        ("other.example", "b.example", 421),
        // Of several certificates for a name, each has to be the host's, too.
        ("c.example", "c.example", 200),
        ("c.example", "d.example", 421),
        ("c.example", "e.example", 421),
        ("d.example", "c.example", 200),
        // Who named no server was not shown a certificate for one.
        ("127.0.0.1", "b.example", 200),
    ] {
        let mut peer = connect(gateway.address("secure"), &any, name).expect("it is served");
        assert_eq!(ask(&mut peer, host).0, expected, "{name} and {host}");
        // The connection goes on.
        if name != "127.0.0.1" {
            assert_eq!(ask(&mut peer, name).0, 200);
        }
    }
    let record = gateway.record(|record| record["status"] == 421);
    assert_eq!(record["cause"], "this connection was opened for another host");
    gateway.stop();
    let gateway = start(&format!("{}\nstrict_host = false", certificates(&[&a, &b])));
    let mut peer = connect(gateway.address("secure"), &any, "a.example").expect("it is served");
    assert_eq!(ask(&mut peer, "b.example").0, 200);
    gateway.stop();
}

/// Who signs certificates of clients, and one of them.
struct Clients {
    file: String,
    alice: (CertificateDer<'static>, PrivateKeyDer<'static>),
    fingerprint: String,
}

fn clients(folder: &Folder, name: &str) -> Clients {
    clients_until(folder, name, SystemTime::now() + Duration::from_secs(24 * 60 * 60))
}

fn clients_until(folder: &Folder, name: &str, until: SystemTime) -> Clients {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, ecdsa_key()).expect("a certificate");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, "alice, O=admins");
    params.not_after = until.into();
    let key = ecdsa_key();
    let alice = params.signed_by(&key, &authority).expect("a certificate");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, alice.der());
    let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.put(&format!("{name}.pem"), authority.pem()).display().to_string();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    Clients { file, alice: (alice.der().clone(), key), fingerprint }
}

impl Clients {
    fn config(&self, versions: &'static [&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let shows = Some((self.alice.0.clone(), self.alice.1.clone_key()));
        Can { versions, shows, ..Can::default() }.config()
    }
}

#[test]
fn who_shows_no_certificate_or_a_foreign_one_is_refused_where_one_is_required() {
    let folder = Folder::new();
    let pair = pair(&folder, "a", &["localhost"], ecdsa_key());
    let [known, foreign] = ["known", "foreign"].map(|name| clients(&folder, name));
    for mode in ["required", "optional"] {
        let gateway = start(&format!(
            "{}\nclient_certificates = \"{mode}\"\nclient_ca = {:?}",
            certificates(&[&pair]),
            known.file
        ));
        let address = gateway.address("secure");
        for versions in [NEW, OLD] {
            let mut peer = connect(address, &known.config(versions), "localhost").expect("it is served");
            assert_eq!(ask(&mut peer, "localhost").1, "here");
            let refused = alert(connect(address, &foreign.config(versions), "localhost"));
            assert_eq!(refused, Some(AlertDescription::UnknownCA), "{mode} {versions:?}");
            let none = Can { versions, ..Can::default() }.config();
            if mode == "required" {
                let refused = alert(connect(address, &none, "localhost"));
                assert_eq!(refused, Some(AlertDescription::CertificateRequired), "{versions:?}");
            } else {
                let mut peer = connect(address, &none, "localhost").expect("it is served");
                assert_eq!(ask(&mut peer, "localhost").1, "here");
            }
        }
        gateway.stop();
    }
}

/// What the backend is told is compared whole, so that a header too many is seen; by a plain request and by an upgrade. Whoever
/// cannot add our headers cannot take them away either.
#[test]
fn a_backend_is_told_whom_a_verified_certificate_names_and_nobody_can_forge_it() {
    let folder = Folder::new();
    let pair = pair(&folder, "a", &["localhost"], ecdsa_key());
    let known = clients(&folder, "known");
    let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
    let backend = Backend::start(backend::respond(answer));
    let gateway = Gateway::start(&format!(
        "[gateway]\ntrusted_proxies = [\"127.0.0.1\"]\n[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"secure\"\nbind = \"127.0.0.1:0\"\n[listener.tls]\n{}\n\
         client_certificates = \"optional\"\nclient_ca = {:?}\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        certificates(&[&pair]),
        known.file,
        backend.address()
    ));
    let forged = "X-Client-Cert-Subject: CN=root\r\nx_client_cert_subject: CN=root\r\nX-Client-Cert-Fingerprint: 00\r\n\
                  X-Client-Cert-Verified: yes\r\nClient-Cert: :AA==:\r\nClient-Cert-Chain: :AA==:\r\n";
    let secure = gateway.address("secure");
    let alice = known.config(BOTH);
    let doors: [(&dyn Fn() -> Peer, bool); 3] = [
        (&|| Client::connect(gateway.address("plain")), false),
        (&|| connect(secure, &Can::default().config(), "localhost").expect("it is served"), false),
        // All but the first of them by a ticket: the certificate comes with it.
        (&|| connect(secure, &alice, "localhost").expect("it is served"), true),
    ];
    // What Connection names is removed from what the client sent (RFC 9110 section 7.6.1), not from what it is told of by us.
    let named = format!("{forged}Connection: X-Client-Cert-Subject, X-Client-Cert-Fingerprint\r\n");
    let mut expected = Vec::new();
    for (door, is_known) in doors {
        for headers in ["", forged, &named] {
            let plain = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
            for request in [plain, opening_handshake("localhost", "/", headers)] {
                let mut peer = door();
                peer.send(request);
                assert_eq!(peer.read_answer().status, 204);
                expected.push(is_known);
            }
        }
    }
    gateway.stop();
    let received = backend.finish();
    assert_eq!(received.len(), expected.len());
    for (bytes, is_known) in received.iter().zip(expected) {
        let head = text(bytes);
        let subject = header_lines(&head, "x-client-cert-subject");
        let fingerprint = header_lines(&head, "x-client-cert-fingerprint");
        match is_known {
            true => {
                assert_eq!((subject, fingerprint), (vec!["CN=alice\\, O=admins,O=Example"], vec![&*known.fingerprint]))
            }
            false => assert!(subject.is_empty() && fingerprint.is_empty(), "{head}"),
        }
        let others = ["x_client_cert_subject", "x-client-cert-verified", "client-cert", "client-cert-chain"];
        assert!(others.iter().all(|name| header_lines(&head, name).is_empty()), "{head}");
    }
}

/// A session that is resumed brings its client's certificate along: what it was admitted by must still be in force.
#[test]
fn tickets_survive_a_reload_but_not_another_authority_of_clients() {
    let folder = Folder::new();
    let [one, two] = ["one", "two"].map(|name| pair(&folder, name, &["localhost"], ecdsa_key()));
    let [known, other] = ["known", "other"].map(|name| clients(&folder, name));
    let tls = |pair: &Pair, authority: &Clients| {
        format!("{}\nclient_certificates = \"required\"\nclient_ca = {:?}", certificates(&[pair]), authority.file)
    };
    let gateway = start(&tls(&one, &known));
    let config = known.config(BOTH);
    let come = || {
        let mut peer = connect(gateway.address("secure"), &config, "localhost")?;
        peer.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let first = peer.try_read_some()?;
        assert!(first.starts_with(b"HTTP/1.1 200 "));
        let kind = peer.tls().connection().handshake_kind();
        Ok::<_, std::io::Error>(kind.expect("it is done"))
    };
    assert_eq!(come().expect("it is served"), HandshakeKind::Full);
    assert_eq!(come().expect("it is served"), HandshakeKind::Resumed);
    gateway.reload(&file(&tls(&two, &known)));
    assert_eq!(come().expect("it is served"), HandshakeKind::Resumed);
    gateway.reload(&file(&tls(&two, &other)));
    come().expect_err("who signed it is known no more");
    gateway.reload(&file(&tls(&two, &known)));
    assert_eq!(come().expect("it is served"), HandshakeKind::Full);
    gateway.stop();
}

/// And its certificate may have expired since the whole TLS handshake.
#[test]
fn a_session_is_resumed_for_no_longer_than_its_clients_certificate_is_valid() {
    let folder = Folder::new();
    let pair = pair(&folder, "a", &["localhost"], ecdsa_key());
    let until = SystemTime::now() + Duration::from_secs(4);
    let known = clients_until(&folder, "known", until);
    let gateway = start(&format!(
        "{}\nclient_certificates = \"required\"\nclient_ca = {:?}\n[log]\nlevel = \"debug\"\nformat = \"json\"\n",
        certificates(&[&pair]),
        known.file
    ));
    let configs = [NEW, OLD].map(|versions| known.config(versions));
    for config in &configs {
        let mut peer = connect(gateway.address("secure"), config, "localhost").expect("it is served");
        assert_eq!(ask(&mut peer, "localhost").1, "here");
    }
    // Certificates know whole seconds.
    support::until("its time is over", || SystemTime::now() > until + Duration::from_secs(1));
    for config in &configs {
        let mut peer = connect(gateway.address("secure"), config, "localhost").expect("it has a ticket");
        assert_eq!(peer.tls().connection().handshake_kind(), Some(HandshakeKind::Resumed));
        let _ = peer.try_send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = peer.try_read_some();
        assert!(answer.as_ref().map_or(true, |bytes| bytes.is_empty()), "{answer:?}");
        gateway.message(|message| message["error"] == "the client's certificate has expired since");
    }
    gateway.stop();
}

/// A gateway whose file is in this folder and names its certificate there, in line 7, and the key of it in line 8.
fn start_in(folder: &Folder) -> (Gateway, PathBuf) {
    const TEXT: &str = r#"[log]
format = "json"
[[listener]]
name = "secure"
bind = "127.0.0.1:0"
[listener.tls]
certificate = "good.pem"
key = "good.key"
[[route]]
respond = 204
"#;
    let file = folder.put("gateway.toml", TEXT);
    let gateway = Gateway::launch(&["run", file.to_str().expect("text")], &[]);
    gateway.message(|message| message["message"] == "serving");
    (gateway, file)
}

#[test]
fn a_certificate_that_vanished_or_does_not_match_refuses_the_reload() {
    let folder = Folder::new();
    let good = pair(&folder, "good", &["localhost"], ecdsa_key());
    let other = pair(&folder, "other", &["localhost"], ecdsa_key());
    let (gateway, file) = start_in(&folder);
    let here = file.parent().expect("its folder").display();
    let any = Can::default().config();
    let is_refused = |report: &str| {
        gateway.signal(Signal::SIGHUP);
        let refused = |message: &Value| message["message"].as_str().is_some_and(|text| text.contains("is refused"));
        let told = gateway.message(refused);
        let expected = format!("the reload is refused, and the configuration stays as it is: {report}");
        assert_eq!((told["level"].as_str(), told["message"].as_str()), (Some("ERROR"), Some(&*expected)));
        assert!(shown(gateway.address("secure"), &any, "localhost") == good.der, "it has changed");
    };
    let kept = std::fs::read(file.with_file_name("good.pem")).expect("it is there");
    std::fs::remove_file(file.with_file_name("good.pem")).expect("it is there");
    is_refused(&format!(
        r#"error: `listener.tls.certificate`: {here}/good.pem cannot be read: No such file or directory (os error 2)
 --> {here}/gateway.toml:7:15
  |
7 | certificate = "good.pem"
  |               ^^^^^^^^^^ expected a file of PEM: the certificate, and behind it the ones that signed it"#
    ));
    // Half of it, as a copy that is under way.
    folder.put("good.pem", &kept[..kept.len() / 2]);
    is_refused(&format!(
        r#"error: `listener.tls.certificate`: {here}/good.pem is not PEM: section end "CERTIFICATE" missing
 --> {here}/gateway.toml:7:15
  |
7 | certificate = "good.pem"
  |               ^^^^^^^^^^ expected a file of PEM: the certificate, and behind it the ones that signed it"#
    ));
    // The certificate is there already and its key is not yet.
    folder.put("good.pem", &kept);
    folder.put("good.key", other.key.serialize_pem());
    is_refused(&format!(
        r#"error: `listener.tls.key`: the private key is not the one of the certificate
 --> {here}/gateway.toml:8:7
  |
7 | certificate = "good.pem"
  |               ---------- the certificate
8 | key = "good.key"
  |       ^^^^^^^^^^ expected a file of PEM with the private key of the certificate"#
    ));
    gateway.stop();
}

#[test]
fn a_certificate_that_has_expired_is_served_after_a_reload_and_told() {
    let folder = Folder::new();
    pair(&folder, "good", &["localhost"], ecdsa_key());
    let (gateway, file) = start_in(&folder);
    let here = file.parent().expect("its folder").display();
    // 2020-02-29T12:00:00Z
    let leap_day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_582_977_600);
    let expired = pair_until(&folder, "good", &["localhost"], ecdsa_key(), leap_day);
    gateway.signal(Signal::SIGHUP);
    gateway.message(|message| message["message"] == "reloaded");
    let warnings: Vec<_> = gateway.messages().into_iter().filter(|message| message["level"] == "WARN").collect();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let expected = format!("{here}/gateway.toml:7:15: certificate {here}/good.pem expired on 2020-02-29");
    assert_eq!(warning["message"], *expected);
    let any = Can::default().config();
    assert!(shown(gateway.address("secure"), &any, "localhost") == expired.der, "the new one is not served");
    gateway.stop();
}

#[test]
fn a_certificate_that_expires_is_told_ahead_when_it_is_read_and_once_a_day() {
    let folder = Folder::new();
    let now = SystemTime::now();
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    let soon = pair_until(&folder, "soon", &["a.example"], ecdsa_key(), now + days(3) + days(1) / 2);
    let later = pair_until(&folder, "later", &["b.example"], ecdsa_key(), now + days(60));
    let text = file(&certificates(&[&soon, &later]));
    let config = Config::parse("gateway.toml", &text, Path::new(".")).expect("it is right");
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.contains("soon.pem expires on ") && warning.ends_with(", in 3 days"), "{warning}");
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut daily = Daily::from(now);
        for passed in [days(0), days(1) / 2, days(1), days(1) + days(1) / 2, days(2), days(3), days(4)] {
            daily.tell(&config, now + passed);
        }
    });
    let text = lines.text();
    let told: Vec<_> = text.lines().map(|line| line.split_once(": ").expect("a level and a text").1).collect();
    assert_eq!(told.len(), 4, "{text}");
    for (line, (message, rest)) in told.iter().zip([
        ("a certificate expires", "days=2"),
        ("a certificate expires", "days=1"),
        ("a certificate expires", "days=0"),
        ("a certificate has expired", ""),
    ]) {
        assert!(line.starts_with(message) && line.contains("soon.pem") && line.contains(rest), "{line}");
        assert!(line.contains("listener=secure"), "{line}");
    }
}

/// Lines of a log, kept.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("text")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
