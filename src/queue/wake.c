/*
 * wake.c
 *	  Signals at the end of a transaction: see wake.h.
 *
 * Whoever is woken before a commit would look and find nothing. All of a
 * transaction's signals are sent at once, however many statements it had. That
 * of a prepared one is for whoever commits it to send (worker/stop.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "queue/wake.h"

/* What this transaction has noted, and for whom. */
static uint32 noted[SLOT_PROCESSES];
static DatabaseSlot *slot;

static void transaction_ends(XactEvent event, void *arg);
static void send_noted(void);

void
wake_at_commit(SlotProcess process, uint32 signals)
{
	static bool registered = false;

	if ((noted[process] & signals) == signals)
		return;
	if (!registered)
		RegisterXactCallback(transaction_ends, NULL);
	registered = true;
	slot = slot_make(MyDatabaseId);	/* takes a lock, so not at the commit */
	noted[process] |= signals;
}

/* Sends or forgets what the transaction has noted. */
static void
transaction_ends(XactEvent event, void *arg pg_attribute_unused())
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			send_noted();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			memset(noted, 0, sizeof(noted));
			break;
		default:
			break;
	}
}

static void
send_noted(void)
{
	for (int i = 0; i < SLOT_PROCESSES; i++)
		if (noted[i] && slot)
			slot_signal(slot, (SlotProcess) i, noted[i]);
	memset(noted, 0, sizeof(noted));
}
