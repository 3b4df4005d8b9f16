# Stands in for the feed's luci.mk: the files of root/ and htdocs/ as they are.
PKG_NAME?=$(notdir $(CURDIR))
PKG_VERSION?=0
PKG_RELEASE?=1
include $(INCLUDE_DIR)/package.mk

define Package/$(PKG_NAME)
  TITLE:=$(LUCI_TITLE)
  DEPENDS:=$(LUCI_DEPENDS)
  PKGARCH:=$(LUCI_PKGARCH)
endef

define Package/$(PKG_NAME)/install
	install -d $(1)/www
	cp -pR htdocs/. $(1)/www/
	cp -pR root/. $(1)/
endef

$(eval $(call BuildPackage,$(PKG_NAME)))
