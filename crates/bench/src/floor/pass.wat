;; The host calls that a filter needs to forward a request of an unlisted host: it reads `:authority`.
(module
  (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 32) ":authority")
  (func (export "_initialize"))
  (func (export "proxy_abi_version_0_2_1"))
  ;; Every result is written to the same place, and none is kept.
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $header (i32.const 0) (i32.const 32) (i32.const 10) (i32.const 0) (i32.const 4)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0)))
