//! A request while it is decided about: what was looked at once is kept, because each look is a call into the proxy.

use std::cell::OnceCell;

use crate::http::RequestAccess;
use crate::path;

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

    /// The path without its query; `None` where there is none: a CONNECT asks for a tunnel, not for a resource.
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
