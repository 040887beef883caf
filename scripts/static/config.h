/* The settings of elfutils' configure that libelf needs. */
#define PACKAGE_NAME "elfutils"
#define HAVE_ERR_H 1
#define HAVE_DECL_MEMPCPY 1
#define HAVE_DECL_REALLOCARRAY 1
#define HAVE_VISIBILITY 1

#include <eu-config.h>
