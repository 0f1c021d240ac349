;; The host calls that a filter needs to answer a managed-identity request: it reads all headers, the address that the client connected
;; to and the clock, counts the request, and sends a local reply of LENGTH bytes.
(module
  (import "env" "proxy_get_header_map_pairs" (func $headers (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $clock (param i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define_metric (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 32) "destination\00address")
  (data (i32.const 64) "floor_replies")
  ;; One header, in the ABI's form for pairs.
  (data (i32.const 96) "\01\00\00\00\0c\00\00\00\10\00\00\00content-type\00application/json\00")
  (func (export "_initialize")
    (memory.fill (i32.const 1024) (i32.const 120) (i32.const LENGTH)))
  (func (export "proxy_abi_version_0_2_1"))
  ;; Every result is written to the same place, and none is kept.
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $define_metric (i32.const 0) (i32.const 64) (i32.const 13) (i32.const 8)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $headers (i32.const 0) (i32.const 0) (i32.const 4)))
    (drop (call $property (i32.const 32) (i32.const 19) (i32.const 0) (i32.const 4)))
    (drop (call $clock (i32.const 16)))
    (drop (call $increment (i32.load (i32.const 8)) (i64.const 1)))
    (drop (call $reply
      (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const LENGTH) (i32.const 96) (i32.const 42) (i32.const -1)))
    (i32.const 1)))
