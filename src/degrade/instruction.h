/*
 * instruction.h
 *	  Finds what a prompt asks for, as opposed to the text that it asks about.
 */
#ifndef LLM_INSTRUCTION_H
#define LLM_INSTRUCTION_H

#include "postgres.h"

#include "degrade/sentence.h"

/*
 * Takes an instruction ("Summarise the following text: …") off the sentences of
 * a prompt, in place. Returns how many are left.
 */
extern int	instruction_strip(Sentence *sentences, int n);

#endif							/* LLM_INSTRUCTION_H */
