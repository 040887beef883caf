//! Default directories, and the names of configuration files.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use cnikit::spec::NetworkName;

/// The default directory of a runtime for plugins.
pub(crate) const BIN_DIR: &str = "/opt/cni/bin";

/// The default directory of a runtime for network configurations.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// The plugin that the binary serves under this name.
pub(crate) const LOOPBACK: &str = crate::loopback::NAME;

/// The reference plugin that publishes ports of pods.
pub(crate) const PORTMAP: &str = "portmap";

/// The numbers that the name of a configuration file can begin with.
pub(crate) const ORDERS: RangeInclusive<u8> = 0..=99;

/// The configuration file of a network, with `number` before its name.
pub(crate) fn numbered(conf_dir: &Path, number: u8, network: &NetworkName) -> PathBuf {
    conf_dir.join(format!("{number:02}-{network}.conflist"))
}
