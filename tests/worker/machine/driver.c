/* A library that answers as NVIDIA's driver does when it is asked which GPUs there are: two of them,
   and each answer is checked to have been asked for with the right arguments. It can do nothing else.

   Compiled with -DINIT=n, cuInit fails with n; with -DCOUNT=0 there is no GPU; with -DOLD the call
   is missing that older drivers lack; with -DBROKEN=n all that is computed fails with n. */

#include <stddef.h>
#include <string.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef COUNT
#define COUNT 2
#endif
#ifndef BROKEN
#define BROKEN 0
#endif

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3 };
enum { HANDLE = 7 };  /* a CUdevice need not be the number that it was asked for by */

static int ready;

int cuInit(unsigned int flags) {
    if (flags != 0) return INVALID_VALUE;
    ready = INIT == 0;
    return INIT;
}

int cuDriverGetVersion(int *version) { *version = 12060; return SUCCESS; }

int cuDeviceGetCount(int *count) {
    if (!ready) return NOT_INITIALIZED;
    *count = COUNT;
    return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
    if (!ready) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= COUNT) return INVALID_VALUE;
    *device = HANDLE + ordinal;
    return SUCCESS;
}

int cuDeviceGetName(char *name, int length, int device) {
    const char *found = device == HANDLE ? "Orin" : "NVIDIA Example GPU";
    if (device < HANDLE || length <= (int)strlen(found)) return INVALID_VALUE;
    strcpy(name, found);
    return SUCCESS;
}

static int identity(unsigned char *bytes, int device, int first) {
    if (device < HANDLE) return INVALID_VALUE;
    for (int i = 0; i < 16; i++) bytes[i] = (unsigned char)(first + 16 * (device - HANDLE) + i);
    return SUCCESS;
}

int cuDeviceGetUuid(unsigned char *bytes, int device) { return identity(bytes, device, 0x80); }
#ifndef OLD
int cuDeviceGetUuid_v2(unsigned char *bytes, int device) { return identity(bytes, device, 0x00); }
#endif

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    if (device < HANDLE) return INVALID_VALUE;
    *bytes = ((size_t)80 << 30) + (size_t)device;  /* more than fits in 32 bits */
    return SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int first = device == HANDLE;
    switch (attribute) {
    case 18: *value = first; return SUCCESS;
    case 75: *value = first ? 8 : 9; return SUCCESS;
    case 76: *value = first ? 7 : 0; return SUCCESS;
    }
    return INVALID_VALUE;
}

static unsigned int flags[COUNT + 1];

int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned int value) {
    if (device < HANDLE || device >= HANDLE + COUNT) return INVALID_VALUE;
    flags[device - HANDLE] = value;
    return SUCCESS;
}

static int depth = 2;

int cuCtxPopCurrent_v2(void **context) {
    if (depth == 0) return INVALID_VALUE;
    *context = (void *)(size_t)depth--;
    return SUCCESS;
}

/* The second GPU's primary context, and how often it is held. */
static char primary;
static int held;

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device != HANDLE + 1) return INVALID_VALUE;
    held++;
    *context = &primary;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    if (device != HANDLE + 1 || held == 0) return INVALID_VALUE;
    held--;
    return SUCCESS;
}

int cuCtxPushCurrent_v2(void *context) {
    if (context != &primary) return INVALID_VALUE;
    depth++;
    return SUCCESS;
}

int cuCtxSynchronize(void) { return depth == 3 ? BROKEN : INVALID_VALUE; }

/* Not the driver's: what the test wants to know afterwards. */
int holders(void) { return held; }
unsigned int flags_of(int index) { return flags[index]; }
int contexts(void) { return depth; }

int cuGetErrorString(int error, const char **text) {
    *text = error == 999 ? "unknown error" : NULL;
    return *text ? SUCCESS : INVALID_VALUE;
}
