// The names that kernels use, in CUDA C++, without any header.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C" __global__
#define FN static __device__ __forceinline__
#define GLOBAL
#define LOCAL
#define SHARED __shared__
#define CONSTANT __constant__
#define BARRIER __syncthreads()
#define BARRIER_FOR_ALL __syncthreads()
#define GROUP ((int)blockIdx.x)
#define ITEM ((int)threadIdx.x)
#define GROUP_ITEMS ((int)blockDim.x)
#define ATOMIC_COUNT(place) atomicAdd(place, 1)

#define FMA(a, b, c) fmaf(a, b, c)
#define SQRT(x) sqrtf(x)
#define EXP(x) expf(x)
#define LOG(x) logf(x)
#define TANH(x) tanhf(x)
#define ERF(x) erff(x)
#define SIN(x) sinf(x)
#define COS(x) cosf(x)
#define FABS(x) fabsf(x)
#define FLOOR(x) floorf(x)
#define RINT(x) rintf(x)
#define FLOAT_BITS(x) __float_as_uint(x)
#define BITS_FLOAT(x) __uint_as_float(x)

static __device__ __forceinline__ float half_at(const void *p) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(*(const u16 *)p));
    return x;
}

static __device__ __forceinline__ void store_half(float x, void *p) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    *(u16 *)p = bits;
}
static __device__ __forceinline__ float half_value(u32 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)bits));
    return x;
}
#define HALF_AT(p) half_at(p)
#define HALF_VALUE(bits) half_value(bits)
#define STORE_HALF(x, p) store_half(x, p)
