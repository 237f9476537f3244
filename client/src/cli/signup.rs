//! `ahoy signup`: enrols this device for an account.

use ahoy_client::{DeviceLogin, Enrolment, Session};

use super::Failure;
use super::home::Home;

/// Arguments of `ahoy signup`.
#[derive(clap::Args)]
pub struct Signup {
    /// The account's address, e.g. ann@home.example.
    address: String,
    /// The token that the operator gave (`ahoyd invite`).
    #[arg(long)]
    invite: String,
    /// What this device calls itself.
    #[arg(long, default_value = "ahoy")]
    label: String,
}

pub async fn run(home: &Home, command: Signup) -> Result<u8, Failure> {
    let address = home.address(&command.address)?;
    if let Some(other) = home.account_if_any()?.filter(|account| *account != address) {
        let hint = format!("choose another folder for {address} with --home");
        return Err(Failure::Plain(format!("{other} is signed up in this home already: {hint}")));
    }
    let network = home.network().await?;
    let enrol = Some(Enrolment { invite: command.invite, label: command.label });
    let login = DeviceLogin { account: address.clone(), key: home.key("device")?, enrol };
    let session = Session::sign_in_device(&network, login).await?;
    home.set_account(&address)?;
    session.close().await;
    println!("signed up as {address}");
    Ok(0)
}
