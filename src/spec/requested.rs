//! The addresses that a caller requests for one attachment. There are three places for them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Args, Error, MacAddr, NetConf};

impl Args {
    /// The addresses in the key `IP`, as the plugin [static] defines it: a list separated by
    /// commas. An address without a prefix length has the length of a single host.
    ///
    /// ```
    /// use cnikit::spec::Args;
    ///
    /// let args: Args = "IP=10.10.0.5/24,fd00::5/64;GATEWAY=10.10.0.1".parse()?;
    /// assert_eq!(args.ips()?[1].to_string(), "fd00::5/64");
    /// assert_eq!(args.gateways()?[0].to_string(), "10.10.0.1");
    /// # Ok::<(), cnikit::spec::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`].
    ///
    /// [static]: https://www.cni.dev/plugins/current/ipam/static/
    pub fn ips(&self) -> Result<Vec<IpNetwork>, Error> {
        self.parse_list("IP")
    }

    /// The gateways in the key `GATEWAY`, as the plugin [static] defines it: a list separated by
    /// commas.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`].
    ///
    /// [static]: https://www.cni.dev/plugins/current/ipam/static/
    pub fn gateways(&self) -> Result<Vec<IpAddr>, Error> {
        self.parse_list("GATEWAY")
    }
}

impl NetConf {
    /// The requested addresses: the first list that is not empty of `runtimeConfig.ips`,
    /// `args.cni.ips` and the key `IP` in `CNI_ARGS`.
    ///
    /// ```
    /// use cnikit::spec::{Args, RawConfig};
    ///
    /// let config = RawConfig::parse(br#"{
    ///     "cniVersion": "1.1.0", "name": "dbnet", "type": "bridge",
    ///     "args": {"cni": {"ips": ["10.1.0.6/16"]}}
    /// }"#)?;
    /// let args: Args = "IP=10.1.0.7".parse()?;
    /// let requested = config.net_conf()?.requested_ips(&args)?;
    /// assert_eq!(requested, ["10.1.0.6".parse::<std::net::IpAddr>().unwrap()]);
    /// # Ok::<(), cnikit::spec::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`] if `IP` is not a list of addresses without prefix lengths. It is an
    /// error also if another list has precedence.
    pub fn requested_ips(&self, args: &Args) -> Result<Vec<IpAddr>, Error> {
        let in_args = args.parse_list("IP")?;
        let in_config = [&self.runtime_config.ips, &self.args.ips].into_iter().find(|ips| !ips.is_empty());
        Ok(in_config.map_or(in_args, |ips| ips.iter().map(IpNetwork::ip).collect()))
    }

    /// The requested MAC address: the first of `runtimeConfig.mac`, `args.cni.mac` and the key
    /// `MAC` in `CNI_ARGS`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArg`] if `MAC` is not a MAC address, [`Error::GroupMac`] if the requested
    /// address is not unicast.
    pub fn requested_mac(&self, args: &Args) -> Result<Option<MacAddr>, Error> {
        // The reference library takes an empty value for a missing one.
        let in_args = if args.value("MAC") == Some("") { None } else { args.parse("MAC")? };
        match self.runtime_config.mac.or(self.args.mac).or(in_args) {
            Some(mac) if !mac.is_unicast() => Err(Error::GroupMac { mac }),
            requested => Ok(requested),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::{ErrorCode, HasErrorCode as _, RawConfig};

    const MACS: [&str; 3] = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"];

    /// A configuration with requests in `runtimeConfig` and `args.cni`, if the flags are set.
    fn net_conf(in_runtime: bool, in_args: bool) -> NetConf {
        let mut config = json!({"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"});
        if in_runtime {
            config["runtimeConfig"] = json!({"ips": ["10.1.0.1/16"], "mac": MACS[0]});
        }
        if in_args {
            config["args"] = json!({"cni": {"ips": ["10.1.0.2/16", "fd00::2/64"], "mac": MACS[1]}});
        }
        RawConfig::parse(config.to_string()).unwrap().net_conf().unwrap()
    }

    #[test]
    fn the_first_of_three_places_counts() {
        let args: Args = format!("IP=10.1.0.3,fd00::3;MAC={}", MACS[2]).parse().unwrap();
        for (in_runtime, in_args, ips, mac) in [
            (true, true, "10.1.0.1", MACS[0]),
            (true, false, "10.1.0.1", MACS[0]),
            (false, true, "10.1.0.2 fd00::2", MACS[1]),
            (false, false, "10.1.0.3 fd00::3", MACS[2]),
        ] {
            let net_conf = net_conf(in_runtime, in_args);
            let requested: Vec<String> =
                net_conf.requested_ips(&args).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(requested.join(" "), ips);
            assert_eq!(net_conf.requested_mac(&args).unwrap().unwrap().to_string(), mac);
        }
        let none = Args::default();
        assert!(net_conf(false, false).requested_ips(&none).unwrap().is_empty());
        assert_eq!(net_conf(false, false).requested_mac(&none).unwrap(), None);
        assert!(none.ips().unwrap().is_empty() && none.gateways().unwrap().is_empty());
    }

    #[test]
    fn empty_values_request_nothing() {
        let args: Args = "IP=;GATEWAY=;MAC=".parse().unwrap();
        assert!(args.ips().unwrap().is_empty() && args.gateways().unwrap().is_empty());
        assert!(net_conf(false, false).requested_ips(&args).unwrap().is_empty());
        assert_eq!(net_conf(false, false).requested_mac(&args).unwrap(), None);
        "IP=10.1.0.3,".parse::<Args>().unwrap().ips().unwrap_err();
    }

    #[test]
    fn invalid_requests_are_named() {
        let net_conf = net_conf(true, true);
        for (args, code, text) in [
            ("IP=10.1.0.300", 4, "CNI_ARGS: IP=10.1.0.300 is not valid: invalid IP address syntax"),
            ("IP=10.1.0.3,x", 4, "CNI_ARGS: IP=x is not valid: invalid IP address syntax"),
            ("IP=10.1.0.3/16", 4, "CNI_ARGS: IP=10.1.0.3/16 is not valid: invalid IP address syntax"),
        ] {
            let error = net_conf.requested_ips(&args.parse().unwrap()).unwrap_err();
            assert_eq!((error.code().value(), error.to_string().as_str()), (code, text));
        }
        let error = net_conf.requested_mac(&"MAC=02".parse().unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("CNI_ARGS: MAC=02 is not valid: \"02\" is not a hardware"), "{error}");
        assert_eq!(error.code(), ErrorCode::INVALID_ENVIRONMENT);

        let group = self::net_conf(false, false).requested_mac(&"MAC=01:00:5e:00:00:01".parse().unwrap()).unwrap_err();
        let text = "the requested MAC 01:00:5e:00:00:01 is a group address: request a MAC with an even first octet";
        assert_eq!((group.code(), group.to_string().as_str()), (ErrorCode::INVALID_CONFIG, text));
    }
}
