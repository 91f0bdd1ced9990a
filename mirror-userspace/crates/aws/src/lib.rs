//! The control side of AWS: which interfaces are mirrored, and which hosts they talk to.
//!
//! It owns the client of the Query API of EC2 and STS ([`client`]), the operations that it uses ([`ec2`]), the description
//! of an account as names for records ([`discovery`]), and the refresh of several accounts ([`fleet`]). Credentials, signing
//! and HTTP are those of `object_store`, which the packet store links already. A capture does not use this crate: it reads the
//! file that is written here.
//!
//! ```no_run
//! use mirror_aws::client::{Client, ClientSettings};
//! use mirror_aws::discovery::describe;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(&ClientSettings::of_region("eu-central-1"))?;
//! for session in describe(&client, &[]).await?.sessions {
//!     println!("VNI {} is {:?}", session.vni, session.instance);
//! }
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod discovery;
pub mod ec2;
pub mod fleet;
