//! `mirror-xdp aws`: asks AWS which interfaces are mirrored, and names them.
//!
//! These commands hold credentials and talk to other hosts, which a capture never does: `watch` is a service with a user of
//! its own, and the capture reads the file that it writes.

mod sessions;
mod size;
mod watch;

use std::env;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use mirror_aws::client::{Client, ClientSettings, Role, is_region};
use mirror_aws::ec2;
use mirror_aws::fleet::Fleet;
use serde_json::json;

/// Find out from AWS which interfaces are mirrored, and name them in records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mirror-xdp aws sessions                                  the mirror sessions of this account and region
  mirror-xdp aws sessions --json | jq '.sessions[].name'   for scripts
  mirror-xdp aws watch                                     keep /run/mirror-xdp-aws/sessions.json up to date
  mirror-xdp run --interface ens6 --names /run/mirror-xdp-aws/sessions.json
                                                           name the instances in all records
  mirror-xdp aws watch --role arn:aws:iam::111122223333:role/mirror-xdp,EXTERNAL-ID
                                                           another account besides
  mirror-xdp aws size --gbps 8 --pps 1.2M                  instance types that can take this traffic
  mirror-xdp aws policy                                    what the instance's role has to allow")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Sessions(sessions::Args),
    Watch(watch::Args),
    Size(size::Args),
    /// Print the IAM policy that these commands need, as JSON
    Policy,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Sessions(args) => sessions::main(args),
        Command::Watch(args) => watch::main(args),
        Command::Size(args) => size::main(args),
        Command::Policy => policy(),
    }
}

fn policy() -> anyhow::Result<ExitCode> {
    let statement = json!({
        "Sid": "MirrorXdpNames",
        "Effect": "Allow",
        "Action": ec2::ACTIONS,
        "Resource": "*",
    });
    let policy = json!({"Version": "2012-10-17", "Statement": [statement]});
    super::print(&format!("{}\n", serde_json::to_string_pretty(&policy)?))?;
    Ok(ExitCode::SUCCESS)
}

/// The accounts and regions to ask.
#[derive(Clone, Debug, clap::Args)]
struct Accounts {
    /// Regions; by default `AWS_REGION`, or that of this instance
    #[arg(long = "region", value_name = "REGION,…", value_delimiter = ',', value_parser = region)]
    regions: Vec<String>,

    /// Role of another account that may be assumed, with the external id that it requires, if any; may be repeated
    #[arg(long = "role", value_name = "ARN[,ID]", value_parser = role)]
    roles: Vec<Role>,

    /// Leave out the account whose credentials assume the roles
    #[arg(long, requires = "roles")]
    only_roles: bool,

    /// Tags of instances and interfaces that records show
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    tags: Vec<String>,

    /// URL of the API of EC2 and STS, in place of that of the region
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

fn region(text: &str) -> Result<String, String> {
    if is_region(text) { Ok(text.to_owned()) } else { Err("write such as eu-central-1".to_owned()) }
}

fn role(text: &str) -> Result<Role, String> {
    let (arn, external_id) = match text.split_once(',') {
        Some((arn, id)) if !id.is_empty() => (arn, Some(id.to_owned())),
        Some(_) => return Err("the external id is missing behind the comma".to_owned()),
        None => (text, None),
    };
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let is_role = matches!(
        parts.as_slice(),
        ["arn", _, "iam", "", account, resource]
            if account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()) && resource.starts_with("role/")
    );
    if !is_role {
        return Err("write such as arn:aws:iam::111122223333:role/NAME".to_owned());
    }
    Ok(Role { arn: arn.to_owned(), external_id })
}

impl Accounts {
    /// Makes the clients of all accounts and regions.
    async fn fleet(&self) -> anyhow::Result<Fleet> {
        let regions = match self.regions.as_slice() {
            [] => vec![default_region().await?],
            regions => regions.to_vec(),
        };
        let own = (!self.only_roles).then_some(None);
        let roles: Vec<_> = own.into_iter().chain(self.roles.iter().cloned().map(Some)).collect();
        let settings = regions.iter().flat_map(|region| {
            roles.iter().map(|role| {
                let settings = ClientSettings::of_region(region);
                let endpoint = self.endpoint.clone().or(settings.endpoint);
                ClientSettings { role: role.clone(), endpoint, ..settings }
            })
        });
        Ok(Fleet::new(&settings.collect::<Vec<_>>(), self.tags.clone())?)
    }
}

/// Returns the region of the environment, or else that of this instance.
async fn default_region() -> anyhow::Result<String> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| env::var(name).ok());
    match named.filter(|region| !region.is_empty()) {
        Some(region) => Ok(region),
        None => Ok(Client::region_of_instance().await?),
    }
}

/// Makes the runtime of a command: it waits for other hosts most of the time.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")
}
