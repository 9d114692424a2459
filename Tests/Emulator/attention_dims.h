// Registers the attention kernels for the head dims that tests use. Included once per element type, in a namespace.
namespace d2 {
#define POLAR_HEAD_DIM 2
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d6 {
#define POLAR_HEAD_DIM 6
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d8 {
#define POLAR_HEAD_DIM 8
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d12 {
#define POLAR_HEAD_DIM 12
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d16 {
#define POLAR_HEAD_DIM 16
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d24 {
#define POLAR_HEAD_DIM 24
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d32 {
#define POLAR_HEAD_DIM 32
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d48 {
#define POLAR_HEAD_DIM 48
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d64 {
#define POLAR_HEAD_DIM 64
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d80 {
#define POLAR_HEAD_DIM 80
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d96 {
#define POLAR_HEAD_DIM 96
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d128 {
#define POLAR_HEAD_DIM 128
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
namespace d256 {
#define POLAR_HEAD_DIM 256
#include "attention_table.h"
#undef POLAR_HEAD_DIM
}
