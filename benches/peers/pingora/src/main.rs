//! Pingora as a WebSocket proxy, set up as its guide does: PLAIN TLS BACKEND CERTIFICATE KEY.

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Proxy {
    backend: String,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.backend, false, String::new())))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plain, tls, backend, certificate, key] = &arguments[..] else {
        panic!("usage: pingora-peer PLAIN TLS BACKEND CERTIFICATE KEY");
    };
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 128, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut proxy = http_proxy_service(&server.configuration, Proxy { backend: backend.clone() });
    proxy.add_tcp(plain);
    proxy.add_tls(tls, certificate, key)?;
    server.add_service(proxy);
    server.run_forever()
}
