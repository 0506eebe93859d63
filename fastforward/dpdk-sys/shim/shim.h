/* What Rust cannot reach in DPDK's headers: functions that exist only as static inlines. */
#pragma once
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

uint16_t ff_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n);
uint16_t ff_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **bufs, uint16_t n);
struct rte_mbuf *ff_pktmbuf_alloc(struct rte_mempool *pool);
void ff_pktmbuf_free(struct rte_mbuf *m);
int ff_errno(void);
