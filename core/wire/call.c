/* The header of the frames of a call stream; see call.h. No I/O. */
#include "call.h"

#include <endian.h>
#include <string.h>

void tine__call_head_put(unsigned char to[TINE__CALL_HEAD], int type, uint64_t serial,
                         uint32_t len)
{
    uint32_t word = htole32((uint32_t)type | (uint32_t)TINE__CALL_MAGIC << 16);
    len = htole32(len);
    serial = htole64(serial);
    memcpy(to, &len, 4);
    memcpy(to + 4, &word, 4);
    memcpy(to + 8, &serial, 8);
}

bool tine__call_head_get(tine__call_head *head,
                         const unsigned char from[TINE__CALL_HEAD])
{
    uint32_t word;
    memcpy(&head->len, from, 4);
    memcpy(&word, from + 4, 4);
    memcpy(&head->serial, from + 8, 8);
    head->len = le32toh(head->len);
    head->serial = le64toh(head->serial);
    word = le32toh(word);
    head->type = (int)(word & 0xff);
    return word >> 16 == TINE__CALL_MAGIC && (word >> 8 & 0xff) == 0;
}
