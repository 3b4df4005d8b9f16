# Stands in for OpenWrt's include/package.mk: "make install DESTDIR=FOLDER" puts each package's files below FOLDER/NAME, and
# what the package says of itself into FOLDER/NAME.PART.
PKG_BUILD_DIR:=$(DESTDIR)/build
PKG_INSTALL_DIR:=$(DESTDIR)/built

Build/Prepare/Default:=
all:
	@echo 'make install DESTDIR=FOLDER'

define BuildPackage
  FIELDS:=TITLE DEPENDS CONFLICTS PROVIDES USERID VARIANT PKGARCH
  $$(foreach field,$$(FIELDS),$$(eval $$(field):=))
  $$(eval $$(Package/$(1)))
  $$(foreach field,$$(FIELDS),$$(eval $(1)_$$(field):=$$($$(field))))
  .PHONY: install install-$(1)
  install: install-$(1)
  install-$(1):
	mkdir -p $(DESTDIR)/$(1)
	$$(call Package/$(1)/install,$(DESTDIR)/$(1))
	$$(file >$(DESTDIR)/$(1).conffiles,$$(Package/$(1)/conffiles))
	$$(file >$(DESTDIR)/$(1).preinst,$$(Package/$(1)/preinst))
	$$(file >$(DESTDIR)/$(1).version,$(PKG_VERSION)-r$(PKG_RELEASE))
	$$(foreach field,$$(FIELDS),$$(file >$(DESTDIR)/$(1).$$(field),$$($(1)_$$(field))))
endef
