//! `mirror-xdp extcap`: makes the appliance an interface in Wireshark, through Wireshark's extcap protocol
//! (<https://www.wireshark.org/docs/wsdg_html_chunked/ChCaptureExtcap.html>). Wireshark starts the program
//! with its own options; a script in its extcap directory puts `extcap` in front of them.

use std::path::PathBuf;
use std::process::ExitCode;

use mirror_control::observe::control::DEFAULT_PATH;
use mirror_store::expression::Expression;

use super::tail;

const EXAMPLES: &str = "\
Examples:
  tshark -G folders                             prints Wireshark's extcap path
  ln -s /usr/share/mirror-xdp/extcap/mirror-xdp /usr/lib/x86_64-linux-gnu/wireshark/extcap/
  tshark -i mirror-xdp -f 'udp port 53'";

/// The name of the only interface.
const INTERFACE: &str = "mirror-xdp";

/// Serve as an interface of Wireshark; called by Wireshark, not by people
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "Wireshark's protocol has these flags")]
pub(super) struct Args {
    /// List the interfaces
    #[arg(long)]
    extcap_interfaces: bool,

    /// Print the link layer of the interface
    #[arg(long)]
    extcap_dlts: bool,

    /// List the settings
    #[arg(long)]
    extcap_config: bool,

    /// The interface
    #[arg(long, value_name = "IF")]
    extcap_interface: Option<String>,

    /// Wireshark's version
    #[arg(long, value_name = "VERSION")]
    extcap_version: Option<String>,

    /// Capture filter; alone, only check that it compiles
    #[arg(long, value_name = "FILTER")]
    extcap_capture_filter: Option<String>,

    /// Capture frames
    #[arg(long, requires = "fifo")]
    capture: bool,

    /// Pipe to write the frames to
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,

    /// Control socket of the capture
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = args.extcap_capture_filter.as_deref().unwrap_or_default();
    if args.extcap_interfaces {
        super::print(&format!(
            "extcap {{version={}}}\ninterface {{value={INTERFACE}}}{{display=Mirrored traffic (mirror-xdp)}}\n",
            env!("CARGO_PKG_VERSION")
        ))?;
    } else if args.extcap_dlts {
        super::print("dlt {number=1}{name=EN10MB}{display=Ethernet}\n")?;
    } else if args.extcap_config {
        super::print(&format!(
            "arg {{number=0}}{{call=--control}}{{display=Control socket}}{{type=string}}\
             {{default={DEFAULT_PATH}}}{{tooltip=Socket of the running `mirror-xdp run`}}\n"
        ))?;
    } else if let (true, Some(fifo)) = (args.capture, &args.fifo) {
        return tail::to_fifo(&args.control, filter, fifo);
    } else if args.extcap_capture_filter.is_some() {
        // Prints the error; prints nothing if the filter is valid.
        if let Err(error) = Expression::parse(filter) {
            super::print(&format!("{error}\n"))?;
        }
    } else {
        eprintln!("mirror-xdp: extcap is for Wireshark; use `mirror-xdp tail`");
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}
