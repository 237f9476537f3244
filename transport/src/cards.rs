//! Fetches cards for the resolver: a connection that says hello, takes the card, and goes.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use ahoy_proto::card::{CardSource, FetchError, FetchedCard};
use ahoy_proto::name::Name;
use ahoy_proto::session::{Hello, SessionError};
use ahoy_proto::v1::Role;

use crate::endpoint::Endpoint;
use crate::error::{Closed, ConnectError};

impl CardSource for Endpoint {
    fn fetch<'a>(
        &'a self,
        name: &'a Name,
        host: &'a str,
        addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Result<FetchedCard, FetchError>> + Send + 'a>> {
        Box::pin(async move {
            let greeted = self.greet(addr, host, Hello::new(Role::CardReader, name.clone())).await?;
            let spki = greeted.spki();
            let signed = greeted.server_hello().card.clone();
            greeted.close();
            let signed = signed.ok_or_else(|| FetchError::Protocol("no card in the hello".to_owned()))?;
            Ok(FetchedCard { signed, spki })
        })
    }
}

impl From<ConnectError> for FetchError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NoAnswer(_) => Self::Timeout,
            ConnectError::Session(SessionError::Refused(fault))
            | ConnectError::NotServed(fault)
            | ConnectError::Closed(Closed::Refused(fault)) => Self::Refused(fault),
            ConnectError::Address(_) | ConnectError::Closed(_) => Self::Unreachable(error.to_string()),
            ConnectError::Session(_) | ConnectError::Frame(_) | ConnectError::NoCertificate => {
                Self::Protocol(error.to_string())
            }
        }
    }
}
