/* Ordinary functions around DPDK's static inlines, and our own versions of what EAL has for other machines than ours. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include "shim.h"

uint16_t ff_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, bufs, n);
}

uint16_t ff_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, bufs, n);
}

struct rte_mbuf *ff_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void ff_pktmbuf_free(struct rte_mbuf *m)
{
	rte_pktmbuf_free(m);
}

int ff_errno(void)
{
	return rte_errno;
}

/*
 * EAL finds cores by looking into /sys/devices/system/cpu and gives up without it. A port VM need not have /sys,
 * and what counts is where the process may run, so these three take the place of librte_eal's eal_lcore.o: the
 * linker meets them first and leaves that member of the static archive alone. They are all that it defines.
 */
unsigned eal_cpu_socket_id(unsigned core);
unsigned eal_cpu_core_id(unsigned core);
int eal_cpu_detected(unsigned core);

unsigned eal_cpu_socket_id(unsigned core)
{
	(void)core;
	return 0;
}

unsigned eal_cpu_core_id(unsigned core)
{
	return core;
}

int eal_cpu_detected(unsigned core)
{
	cpu_set_t may;

	if (sched_getaffinity(0, sizeof(may), &may) != 0)
		return core == 0;
	return core < CPU_SETSIZE && CPU_ISSET(core, &may);
}

/*
 * In the same way instead of eal_vfio.o and eal_vfio_mp_sync.o: EAL wants to set up VFIO, for which it must find
 * /sys/module, before it knows that there are no PCI devices to drive.
 */
int rte_vfio_enable(const char *module);
int rte_vfio_is_enabled(const char *module);
int vfio_mp_sync_setup(void);
void vfio_mp_sync_cleanup(void);

int rte_vfio_enable(const char *module)
{
	(void)module;
	return 0;
}

int rte_vfio_is_enabled(const char *module)
{
	(void)module;
	return 0;
}

int vfio_mp_sync_setup(void)
{
	return 0;
}

void vfio_mp_sync_cleanup(void)
{
}

/*
 * And instead of the Linux eal_timer.o: where the processor does not tell how fast its counter runs, EAL looks at it for
 * 100 ms, which is most of the time that FastForward is away when it is started again. Nothing here is timed by that
 * counter, and 2 ms tell its speed to a thousandth.
 */
uint64_t get_tsc_freq(void);
int rte_eal_timer_init(void);
void set_tsc_freq(void);

enum timer_source eal_timer_source = EAL_TIMER_TSC;

static uint64_t nanoseconds(void)
{
	struct timespec t = {0};

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t get_tsc_freq(void)
{
	const struct timespec nap = {.tv_nsec = 2000000};
	uint64_t ns = nanoseconds(), ticks = rte_rdtsc();

	nanosleep(&nap, NULL);
	ns = nanoseconds() - ns;
	ticks = rte_rdtsc() - ticks;
	return ns == 0 ? 0 : (uint64_t)((double)ticks * 1e9 / (double)ns);
}

int rte_eal_timer_init(void)
{
	set_tsc_freq();
	return 0;
}

/*
 * The only two functions that Debian's DPDK takes from libbsd. Linking libbsd.a for them would also put its
 * getentropy in the place of the C library's.
 */
#undef strlcpy
#undef strlcat
size_t strlcpy(char *to, const char *from, size_t size);
size_t strlcat(char *to, const char *from, size_t size);

size_t strlcpy(char *to, const char *from, size_t size)
{
	size_t n = strlen(from);

	if (size > 0) {
		size_t fits = n < size ? n : size - 1;

		memcpy(to, from, fits);
		to[fits] = '\0';
	}
	return n;
}

size_t strlcat(char *to, const char *from, size_t size)
{
	size_t have = strnlen(to, size);

	return have + strlcpy(to + have, from, size - have);
}
