/*
 * Sends what transmit.c has collected, and copes with paths that take less than a packet.
 */
#ifndef FLANNEL_UDP_SEND_H
#define FLANNEL_UDP_SEND_H

#include "transmit.h"

/* Bytes of the largest packet that reaches the peer, as far as is known. */
uint32_t largest_packet(const struct transmitter *tx, const struct peer *peer);

/* Send the first `count` messages. */
void send_messages(struct transmitter *tx, uint32_t count);

/* A packet that is larger than that: fragment it where that is allowed, else tell its sender. */
void send_too_big(struct transmitter *tx, struct peer *peer, const struct packet *packet);

#endif
