//! Sets up the objects that all pods of a network share: the bridge, the programs, the maps.

use cnikit::datapath::{self, DatapathConfig, Endpoint};
use cnikit::netlink::Link;
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{ErrorCode, MacAddr};
use tracing::info_span;

use crate::bridge::{self, ExistingBridge};
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::gateway::Gateways;
use crate::ipv6;
use crate::network::Network;
use crate::programs::Programs;

/// The maximum number of attempts of an ADD, if programs of another mount namespace start to run at
/// the same time.
const MAX_ATTEMPTS: usize = 5;

/// The state of the node before an ADD changes anything.
#[derive(Debug)]
pub struct Observed<'a> {
    /// The bridge, if there is one.
    pub bridge: Option<ExistingBridge>,
    /// The gateways of the network's own pools.
    pub gateways: Gateways<'a>,
}

/// The shared objects of a network, complete.
#[derive(Debug)]
pub struct Shared {
    /// The bridge.
    pub bridge: Link,
    /// The programs, in the blocks of the bridge.
    pub programs: Programs,
    /// The pinned maps.
    pub endpoints: Endpoints,
    /// The bridge's MAC in the maps before the set-up. Pods have it in their neighbor tables.
    /// `None` before the first pod.
    pub former_mac: Option<MacAddr>,
}

impl<'a> Network<'a> {
    /// Looks up the bridge, and checks IPv6 and the gateways. Changes nothing.
    ///
    /// # Errors
    ///
    /// Fails if the network cannot use the bridge, or if another machine has a gateway's address.
    /// With `needs_ipv6`, fails also if an ADD cannot enable IPv6 on the bridge.
    pub fn look(&self, needs_ipv6: bool) -> Result<Observed<'a>, PluginError> {
        let bridge = bridge::look(self.host, self.name, self.config)?;
        if needs_ipv6 {
            let link = bridge.as_ref().map(|existing| &existing.bridge);
            ipv6::refuse_unavailable(self.name, &self.config.bridge, link)?;
        }
        let gateways = Gateways::look(self.host, self.config, bridge.as_ref())?;
        Ok(Observed { bridge, gateways })
    }

    /// Opens the pinned programs. If necessary, first loads and pins them.
    ///
    /// # Errors
    ///
    /// See [`Programs::ensure`].
    pub fn ensure_programs(&self) -> Result<Programs, PluginError> {
        Programs::ensure(self.host, &self.datapath, self.name)
    }

    /// Creates the shared objects, or repairs them. If everything exists, this needs a few lookups.
    ///
    /// Concurrent calls create one network between them: each step accepts the objects of another
    /// call as its own.
    ///
    /// # Errors
    ///
    /// Fails if the bridge, the programs or the maps cannot be set up.
    pub fn ensure(&self, existing: Option<ExistingBridge>, mut programs: Programs) -> Result<Shared, PluginError> {
        let former_mac = self.known_mac().context("read the configuration of the eBPF programs")?;
        let bridge = {
            let _span = info_span!("bridge").entered();
            let bridge = self.ensure_bridge(existing).context("set up the bridge")?;
            self.ensure_attached(&mut programs, &bridge)?;
            bridge
        };
        let endpoints = Endpoints::open(&self.datapath).context("open the eBPF maps")?;
        Ok(Shared { bridge, programs, endpoints, former_mac })
    }

    fn ensure_attached(&self, programs: &mut Programs, bridge: &Link) -> Result<(), PluginError> {
        for _ in 0..MAX_ATTEMPTS {
            if !programs.are_settled() {
                self.resync(programs, bridge).context("resync the map entries of attached pods")?;
            }
            self.datapath.configure(datapath_config(bridge, self.config)).context("configure the eBPF programs")?;
            if programs.ensure_attached(self.host).context("attach the eBPF programs")? {
                if !programs.are_settled() {
                    self.datapath.settle()?;
                }
                self.datapath.remove_outdated().context("remove the eBPF programs of an older version")?;
                return Ok(());
            }
            *programs = self.ensure_programs()?;
        }
        let msg = format!("other callers replace the eBPF programs of {} repeatedly: try again", self.name);
        Err(PluginError::new(ErrorCode::TRY_AGAIN, msg))
    }

    /// The bridge's MAC in the maps.
    fn known_mac(&self) -> datapath::Result<Option<MacAddr>> {
        let known = self.datapath.config()?.gateway_mac;
        Ok((known != MacAddr::new([0; 6])).then_some(known))
    }
}

/// The configuration of the programs.
#[must_use]
pub fn datapath_config(bridge: &Link, config: &Config) -> DatapathConfig {
    let Endpoint { ifindex, mac, .. } = gateway_endpoint(bridge);
    let mut datapath_config = DatapathConfig::new(ifindex, mac);
    datapath_config.direct_forwarding = config.direct_forwarding;
    datapath_config.spoof_check = config.spoof_check;
    datapath_config
}

/// The endpoint of the gateways' addresses.
#[must_use]
pub fn gateway_endpoint(bridge: &Link) -> Endpoint {
    Endpoint::new(bridge.index, bridge.mac.unwrap_or(MacAddr::new([0; 6])))
}
