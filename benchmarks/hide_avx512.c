/* Preloaded, this hides AVX-512, AMX and AVX-VNNI from all of a process's libraries.

   Linux lets a process forbid itself the CPUID instruction (arch_prctl, ARCH_SET_CPUID) where the processor supports
   that: it then ends in a SIGSEGV, whose handler here answers in the processor's place, less the bits of newer
   instructions. New threads and forked children inherit the prohibition; what is executed anew preloads this again. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static void forbid(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)r[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* something else went wrong: it happens again, without a handler */
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    uint32_t leaf = r[REG_RAX], sub = r[REG_RCX], a, b, c, d;
    forbid(0);
    __cpuid_count(leaf, sub, a, b, c, d);
    forbid(1);
    if (leaf == 7 && sub == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX512 F to VL */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                  /* VBMI, VBMI2, VNNI, BITALG, VPOPCNT */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* 4VNNIW to VP2INTERSECT, FP16, AMX */
    } else if (leaf == 7 && sub == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));  /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10) | BIT(19)); /* AVX-VNNI-INT8, AVX-NE-CONVERT, AMX, AVX-VNNI-INT16, AVX10 */
    }
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    if (sigaction(SIGSEGV, &action, 0) == 0) forbid(1);
}
