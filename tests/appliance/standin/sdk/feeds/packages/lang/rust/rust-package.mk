# Stands in for the feed's rust-package.mk. The binary is put where cargo would have put it.
RUST_ARCH_DEPENDS:=@(aarch64||arm||i386||mips||mipsel||riscv64||x86_64)
define RustBinPackage
  Build/Compile:=
endef
