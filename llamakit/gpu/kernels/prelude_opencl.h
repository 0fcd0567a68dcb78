// The names that kernels use, in OpenCL C 1.2.
typedef uchar u8;
typedef ushort u16;
typedef uint u32;
typedef ulong u64;
typedef long i64;

#define KERNEL __kernel
#define FN static
#define GLOBAL __global
#define LOCAL __local
#define SHARED __local
#define CONSTANT __constant
#define BARRIER barrier(CLK_LOCAL_MEM_FENCE)
#define BARRIER_FOR_ALL barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define GROUP ((int)get_group_id(0))
#define ITEM ((int)get_local_id(0))
#define GROUP_ITEMS ((int)get_local_size(0))
#define ATOMIC_COUNT(place) atomic_inc(place)

#define FMA(a, b, c) fma(a, b, c)
#define SQRT(x) sqrt(x)
#define EXP(x) exp(x)
#define LOG(x) log(x)
#define TANH(x) tanh(x)
#define ERF(x) erf(x)
#define SIN(x) sin(x)
#define COS(x) cos(x)
#define FABS(x) fabs(x)
#define FLOOR(x) floor(x)
#define RINT(x) rint(x)
#define FLOAT_BITS(x) as_uint(x)
#define BITS_FLOAT(x) as_float(x)
#define HALF_AT(p) vload_half(0, (GLOBAL const half *)(p))
#define HALF_VALUE(bits) half_value((ushort)(bits))
#define STORE_HALF(x, p) vstore_half_rte(x, 0, (GLOBAL half *)(p))

static float half_value(ushort bits) { return vload_half(0, (const half *)&bits); }
