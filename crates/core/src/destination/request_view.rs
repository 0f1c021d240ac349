//! A view of a request that reads each part at most once, because each read is a call into the proxy.

use std::cell::OnceCell;

use crate::http::RequestAccess;
use crate::path;

/// A request, with the parts that were read.
pub(super) struct RequestView<'a> {
    pub(super) request: &'a dyn RequestAccess,
    target: OnceCell<Option<Vec<u8>>>,
    method: OnceCell<Vec<u8>>,
}

impl<'a> RequestView<'a> {
    pub(super) const fn new(request: &'a dyn RequestAccess) -> Self {
        Self { request, target: OnceCell::new(), method: OnceCell::new() }
    }

    pub(super) fn method(&self) -> &[u8] {
        self.method.get_or_init(|| self.request.header(":method").unwrap_or_default())
    }

    /// The path without the query; `None` for a CONNECT request, which has no path.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.target().map(|target| path::split(target).0)
    }

    pub(super) fn query(&self) -> &[u8] {
        self.target().map_or(&[], |target| path::split(target).1)
    }

    fn target(&self) -> Option<&[u8]> {
        let target = self.target.get_or_init(|| self.request.header(":path"));
        target.as_deref().filter(|target| !target.is_empty())
    }
}
