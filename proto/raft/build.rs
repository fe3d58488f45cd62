//! Compiles `eraftpb.proto` without a protoc.

use protobuf_codegen_pure::{Codegen, Customize};

fn main() {
    println!("cargo::rerun-if-changed=proto");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let protos = std::path::Path::new(&out).join("protos");
    std::fs::create_dir_all(&protos).expect("cargo made OUT_DIR, to write into");
    Codegen::new()
        .out_dir(&protos)
        .include("proto")
        .input("proto/eraftpb.proto")
        .customize(Customize {
            carllerche_bytes_for_bytes: Some(true),
            lite_runtime: Some(true),
            gen_mod_rs: Some(true),
            ..Customize::default()
        })
        .run()
        .expect("the file compiles: it is the published one");
}
