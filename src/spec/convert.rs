//! Converts results to and from the JSON of each version: two shapes, with small differences, for
//! seven versions.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize, de};
use serde_json::{Map, Value};

use super::lenient::{empty_as_none, null_as_default};
use super::{AddResult, Dns, Error, Interface, IpConfig, Route, UnsupportedField, Version};

/// The shape from 0.3.0 on.
#[derive(Serialize, Deserialize)]
struct Listed {
    /// Written only. A reader must know the version before it can choose the shape.
    #[serde(rename = "cniVersion", skip_deserializing)]
    cni_version: Option<Version>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    ips: Vec<ListedIp>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns: Option<Dns>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct ListedIp {
    /// The address family, before 1.0.0. A reader ignores it, because the address implies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Value>,
    #[serde(flatten)]
    ip: IpConfig,
}

/// The shape up to 0.2.0: one address per family, and no interfaces.
#[derive(Serialize, Deserialize)]
struct PerFamily {
    #[serde(rename = "cniVersion", skip_deserializing)]
    cni_version: Option<Version>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip4: Option<FamilyIp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip6: Option<FamilyIp>,
    #[serde(default, deserialize_with = "null_as_default")]
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct FamilyIp {
    ip: IpNetwork,
    #[serde(default, deserialize_with = "empty_as_none", skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl AddResult {
    /// Formats the result as the JSON of `version`.
    ///
    /// Purely descriptive fields that the version does not define are omitted: MTU, socket and PCI
    /// device of an interface before 1.1.0, whole interfaces before 0.3.0. Plugins therefore need
    /// no case per version. Fields that affect the reader's behavior are never dropped.
    ///
    /// ```
    /// use cnikit::spec::{AddResult, IpConfig, Version};
    ///
    /// let result = AddResult::default().with_ip(IpConfig::new("10.1.0.5/16".parse()?));
    /// assert_eq!(
    ///     result.to_json(Version::V1_0_0)?,
    ///     r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}]}"#
    /// );
    /// assert_eq!(
    ///     result.to_json(Version::V0_2_0)?,
    ///     r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16"},"dns":{}}"#
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotRepresentable`] names the fields that the version cannot hold. Before 1.1.0
    /// these are attributes of routes, which [`to_json_lossy`](Self::to_json_lossy) omits. Before
    /// 0.3.0 they are also the second address of a family, and routes of a family without an
    /// address. [`Error::NoAddress`] before 0.3.0.
    pub fn to_json(&self, version: Version) -> Result<String, Error> {
        let mut lost = self.route_attributes_newer_than(version);
        lost.extend(self.without_place_in(version));
        if !lost.is_empty() {
            return Err(Error::NotRepresentable { version, lost });
        }
        self.write(version)
    }

    /// Formats the result as [`to_json`](Self::to_json), but omits attributes of routes that the
    /// version does not define: `mtu`, `advmss`, `priority`, `table` and `scope` before 1.1.0. Also
    /// returns the omitted attributes.
    ///
    /// A plugin applies these attributes to the kernel, so the reader of the result needs them only
    /// as information. The dispatcher writes a result in this form, as the reference library does.
    ///
    /// Without its `scope`, an on-link route reads as a route through the gateway of an address. In
    /// `CHECK`, the route in the kernel then differs from `prevResult`.
    ///
    /// ```
    /// use cnikit::spec::{AddResult, Route, Version};
    ///
    /// let mut route = Route::new("10.1.0.0/16".parse()?);
    /// route.mtu = Some(1400);
    /// let result = AddResult::default().with_route(route);
    /// let (json, omitted) = result.to_json_lossy(Version::V1_0_0)?;
    /// assert_eq!(json, r#"{"cniVersion":"1.0.0","routes":[{"dst":"10.1.0.0/16"}]}"#);
    /// assert_eq!(omitted[0].to_string(), "routes[0].mtu 1400 (needs cniVersion 1.1.0 or later)");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotRepresentable`] before 0.3.0, if an address or a route would be lost.
    /// [`Error::NoAddress`] before 0.3.0.
    pub fn to_json_lossy(&self, version: Version) -> Result<(String, Vec<UnsupportedField>), Error> {
        let lost = self.without_place_in(version);
        if !lost.is_empty() {
            return Err(Error::NotRepresentable { version, lost });
        }
        let omitted = self.route_attributes_newer_than(version);
        if omitted.is_empty() {
            return Ok((self.write(version)?, omitted));
        }
        let mut older = self.clone();
        older.routes.iter_mut().for_each(|route| take_newer_of_route(route).for_each(drop));
        Ok((older.write(version)?, omitted))
    }

    /// Checks that each address names an interface of the result, or none.
    ///
    /// The dispatcher checks the result of each `ADD`. [`to_json`](Self::to_json) does not: a
    /// runtime must be able to pass on the result of any plugin.
    ///
    /// ```
    /// use cnikit::spec::{AddResult, IpConfig};
    ///
    /// let result = AddResult::default().with_ip(IpConfig::new("10.1.0.5/16".parse()?).interface(7));
    /// let error = result.check_interface_indexes().unwrap_err();
    /// assert_eq!(error.to_string(), "the result's ips[0].interface is 7, and the result has 0 interfaces");
    /// # Ok::<(), ipnetwork::IpNetworkError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchInterface`] for the first wrong index.
    pub fn check_interface_indexes(&self) -> Result<(), Error> {
        let interfaces = self.interfaces.len();
        for (ip, interface) in self.ips.iter().map(|ip| ip.interface).enumerate() {
            if let Some(interface) = interface.filter(|interface| *interface >= interfaces) {
                return Err(Error::NoSuchInterface { ip, interface, interfaces });
            }
        }
        Ok(())
    }

    /// Parses a result as the JSON of its `cniVersion`, or of `unstated` if it has none.
    ///
    /// Keys that the version does not define go into the `other` map of their object, and
    /// [`to_json`](Self::to_json) writes them back. Existing plugins write keys of 1.1.0 into older
    /// results.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownVersion`] or [`Error::InvalidResult`].
    pub fn from_json(json: &Value, unstated: Version) -> Result<Self, Error> {
        let version = match json.get("cniVersion").and_then(Value::as_str) {
            Some(text) if !text.is_empty() => text.parse()?,
            _ => unstated,
        };
        let result = if !json.is_object() {
            // serde would accept a list as the fields of a struct in order.
            Err(de::Error::custom("not a JSON object"))
        } else if version < Version::V0_3_0 {
            PerFamily::deserialize(json).map(Self::from_per_family)
        } else {
            Listed::deserialize(json).map(Self::from_listed)
        };
        let mut result =
            result.map_err(|source: serde_json::Error| Error::InvalidResult { version, source: source.into() })?;
        if version < Version::V1_1_0 {
            result.move_newer_keys_to_other();
        }
        Ok(result)
    }

    /// Writes a result that fits into `version`.
    fn write(&self, version: Version) -> Result<String, Error> {
        if version < Version::V0_3_0 && self.ips.is_empty() {
            return Err(Error::NoAddress { version });
        }
        let json = if version < Version::V0_3_0 {
            serde_json::to_string(&self.per_family(version))
        } else {
            serde_json::to_string(&self.listed(version))
        };
        json.map_err(|source| Error::Unwritable { source: source.into() })
    }

    /// The attributes of routes that `version` does not define.
    fn route_attributes_newer_than(&self, version: Version) -> Vec<UnsupportedField> {
        if version >= Version::V1_1_0 {
            return Vec::new();
        }
        let newer = |(index, route): (usize, &Route)| {
            take_newer_of_route(&mut route.clone()).map(move |(key, value)| UnsupportedField {
                what: format!("routes[{index}].{key} {value}"),
                since: Version::V1_1_0,
            })
        };
        self.routes.iter().enumerate().flat_map(newer).collect()
    }

    /// The addresses and routes that `version` has no place for.
    fn without_place_in(&self, version: Version) -> Vec<UnsupportedField> {
        let mut lost = Vec::new();
        if version >= Version::V0_3_0 || self.ips.is_empty() {
            return lost;
        }
        let since = Version::V0_3_0;
        for (index, route) in self.routes.iter().enumerate() {
            if self.first_ip(route.dst.is_ipv4()).is_none() {
                let what = format!("routes[{index}] {} without an address of its family", route.dst);
                lost.push(UnsupportedField { what, since });
            }
        }
        for (index, ip) in self.ips.iter().enumerate() {
            if self.first_ip(ip.address.is_ipv4()) != Some(index) {
                lost.push(UnsupportedField { what: format!("ips[{index}] {}", ip.address), since });
            }
        }
        lost
    }

    fn first_ip(&self, is_ipv4: bool) -> Option<usize> {
        self.ips.iter().position(|ip| ip.address.is_ipv4() == is_ipv4)
    }

    fn per_family(&self, version: Version) -> PerFamily {
        let family = |is_ipv4: bool| {
            let ip = self.ips.iter().find(|ip| ip.address.is_ipv4() == is_ipv4)?;
            let routes = self.routes.iter().filter(|route| route.dst.is_ipv4() == is_ipv4).cloned().collect();
            Some(FamilyIp { ip: ip.address, gateway: ip.gateway, routes })
        };
        PerFamily { cni_version: Some(version), ip4: family(true), ip6: family(false), dns: self.dns.clone() }
    }

    fn from_per_family(PerFamily { ip4, ip6, dns, .. }: PerFamily) -> Self {
        let mut result = Self { dns, ..Self::default() };
        for FamilyIp { ip, gateway, routes } in ip4.into_iter().chain(ip6) {
            result.ips.push(IpConfig { gateway, ..IpConfig::new(ip) });
            result.routes.extend(routes);
        }
        result
    }

    fn listed(&self, version: Version) -> Listed {
        let mut result = self.clone();
        if version < Version::V1_1_0 {
            for interface in &mut result.interfaces {
                take_newer_of_interface(interface).for_each(drop);
            }
        } else {
            // A key that was unknown when parsed, and was set since, must be written only once.
            result.move_newer_keys_to_other();
        }
        let AddResult { interfaces, ips, routes, dns, other } = result;
        let listed_ip = |ip: IpConfig| {
            let family = if ip.address.is_ipv4() { "4" } else { "6" };
            ListedIp { version: (version < Version::V1_0_0).then(|| family.into()), ip }
        };
        Listed {
            cni_version: Some(version),
            interfaces,
            ips: ips.into_iter().map(listed_ip).collect(),
            routes,
            dns: Some(dns).filter(|dns| version < Version::V1_0_0 || !dns.is_empty()),
            other,
        }
    }

    fn from_listed(Listed { interfaces, ips, routes, dns, mut other, .. }: Listed) -> Self {
        other.remove("cniVersion");
        let ips = ips.into_iter().map(|listed| listed.ip).collect();
        Self { interfaces, ips, routes, dns: dns.unwrap_or_default(), other }
    }

    fn move_newer_keys_to_other(&mut self) {
        for interface in &mut self.interfaces {
            let newer = take_newer_of_interface(interface);
            interface.other.extend(newer.map(|(key, value)| (key.to_owned(), value)));
        }
        for route in &mut self.routes {
            let newer = take_newer_of_route(route);
            route.other.extend(newer.map(|(key, value)| (key.to_owned(), value)));
        }
    }
}

/// Removes the fields of 1.1.0 from an interface and returns them.
fn take_newer_of_interface(interface: &mut Interface) -> impl Iterator<Item = (&'static str, Value)> + use<> {
    let newer = [
        ("mtu", interface.mtu.take().map(Value::from)),
        ("socketPath", interface.socket_path.take().map(Value::from)),
        ("pciID", interface.pci_id.take().map(Value::from)),
    ];
    newer.into_iter().filter_map(|(key, value)| Some((key, value?)))
}

/// Removes the fields of 1.1.0 from a route and returns them.
fn take_newer_of_route(route: &mut Route) -> impl Iterator<Item = (&'static str, Value)> + use<> {
    let newer = [
        ("mtu", route.mtu.take().map(Value::from)),
        ("advmss", route.advmss.take().map(Value::from)),
        ("priority", route.priority.take().map(Value::from)),
        ("table", route.table.take().map(Value::from)),
        ("scope", route.scope.take().map(Value::from)),
    ];
    newer.into_iter().filter_map(|(key, value)| Some((key, value?)))
}
