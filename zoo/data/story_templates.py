"""The sentences that stories begin with and go on by, by their place in a story. `zoo.data.stories` fills in the slots and makes
the first letter a capital.

Slots: {name} {he} {him} {his} {himself} {person} {trait} {a_trait} {habit} of the hero; {friend} {she} {her} {kin} of the friend,
who is not of the hero's sex; {pet} {kind}; {expert}; {town} {season} {sky}; {goal} {did} {doing} {head} {needs} {more} {tool}
{a_tool} {place}, and {step} {trouble} {remedy} {done} {end} {detail}, of the topic; {receiver} {event} {days} {why} {idea}
{prize}; and, drawn for each sentence, {time} {later} {glad} {sad} {how}.
"""

BEGINNINGS = {
    "opening": """
{name} was {a_trait} {person} from {town}.
{name} lived in {town} and was {a_trait} {person}.
In {town} there lived {a_trait} {person} called {name}.
There was once {a_trait} {person} named {name}.
Everyone in {town} knew {name}, {a_trait} {person}.
{name} had come to {town} in the {season}.
{name} had spent all {his} life in {town}.
This is the story of {name}, {a_trait} {person}.
The smallest house in {town} belonged to {name}.
{name} was the most {trait} {person} in {town}.
People called {name} the most {trait} {person} in {town}.
{name} and {his} family lived near {town}.
Nobody in {town} was as {trait} as {name}.
{name} was new in {town}, {a_trait} {person}.
{name} woke up early that {season} morning in {town}.
It was a fine {season} day in {town} when {name} woke up.
For ten years {name} had lived above a shop in {town}.
{name} stepped off the bus in {town} one {season} day.
When {name} was small, {he} moved to {town}.
{name}, {a_trait} {person}, had a plan that {season}.
On the edge of {town} stood the cottage of {name}.
The neighbours thought that {name} was too {trait}.
{name} grew up in {town}, where nothing ever happened.
{name} sat on the steps of {his} house in {town}.
One {season} evening {name} walked home through {town}.
""",
    "about": """
{he} {habit}.
{name} {habit}.
People said that {he} {habit}.
As everyone knew, {name} {habit}.
It was well known that {he} {habit}.
Ever since childhood, {he} {habit}.
{his} mother used to say that {name} {habit}.
There was one thing about {name}: {he} {habit}.
""",
    "season": """
It was {season}, and {sky}.
{sky}.
Outside, {sky}.
That {season} {sky}.
In {town} {sky}.
{time}, {sky}.
It was the middle of {season}, and {sky}.
All over {town}, {sky}.
""",
    "goal": """
{name} wanted to {goal}.
{he} had always wanted to {goal}.
{time}, {name} decided to {goal}.
{he} made up {his} mind to {goal}.
More than anything {he} wished to {goal}.
{his} dream was to {goal}.
{name} had never tried to {goal} before.
{time}, {name} set out to {goal}.
For the {event}, {name} hoped to {goal}.
{he} promised {his} {receiver} to {goal}.
"I am going to {goal}," said {name}.
"I will {goal}," {name} told {his} {receiver}.
{his} {receiver} asked {name} to {goal}.
The plan was to {goal} before the {event}.
{name} was asked to {goal} for the {event}.
{time}, {he} got the idea to {goal}.
{he} thought it would be fun to {goal}.
There was little time left to {goal}.
{name} could think of nothing but {doing}.
{doing} was harder than {name} had thought.
"Can anyone here {goal}?" asked the {expert}.
{name} read a book about {doing}.
Nobody believed that {name} could {goal}.
The {expert} dared {name} to {goal}.
{name} wrote in {his} diary: I want to {goal}.
""",
    "reason": """
{why}.
After all, {why}.
The reason was simple: {why}.
{he} said that {why}.
The truth was that {why}.
"It is for my {receiver}," {he} said.
It was meant as a surprise for {his} {receiver}.
The {event} was only {days} days away.
{he} wanted to make {his} {receiver} proud.
{his} {receiver} had once done the same.
"Why not?" said {name}, because {why}.
{he} did it because {why}.
The best one at the {event} would get {prize}.
{name} had only {days} days to do it.
{his} {receiver} did not know a thing about it.
{he} had thought about it for {days} weeks.
""",
    "friend": """
{his} {kin} {friend} offered to help {him}.
{name} asked {his} {kin} {friend} to come along.
{friend}, {his} {kin}, came with {him}.
Luckily {his} {kin} {friend} was there too.
{his} {kin} {friend} heard about it and came over.
{friend} was {his} {kin}, and {she} wanted to help.
{name} was not alone, for {his} {kin} {friend} was with {him}.
{he} rang {his} {kin} {friend}, who came at once.
{his} {kin} {friend} only laughed at the idea.
{friend}, {his} {kin}, did not think it would work.
At the corner {he} met {his} {kin} {friend}.
{his} {kin} {friend} had done it many times.
{name} told only {friend}, {his} {kin}.
{friend} was {his} {kin} and knew a lot about it.
{his} {kin} {friend} wanted to see it too.
With {him} was {friend}, {his} {kin}.
""",
    "talk": """
"Let me help you," said {friend}.
"Are you sure about this?" asked {friend}.
"You will need {a_tool}," {friend} told {him}.
"We can do it together," {friend} said.
"Be careful with that {tool}," {friend} warned {him}.
"Have you got any {needs}?" {she} asked {him}.
{friend} asked {him} a dozen questions.
"I bet you cannot do it," {friend} teased {him}.
"It will take all day," {friend} told {him}.
{friend} brought some {needs} for {him}.
{friend} lent {him} {her} own {tool}.
"What can I do?" {friend} asked {him}.
"Nothing can go wrong now," said {friend}.
"First of all, we need some {needs}," {friend} said.
{friend} rolled up {her} sleeves to help {him}.
"My old {tool} is yours," {friend} told {him}.
"You have to be patient for that," said {friend}.
{friend} promised {him} not to tell anyone.
{name} and {friend} shook hands on it.
{name} showed {friend} what to do.
""",
    "expert": """
{name} went to see the {expert} first.
The {expert} showed {him} how to hold the {tool}.
{he} asked the {expert} for advice.
"Take your time," the {expert} told {him}.
The {expert} gave {him} some {needs}.
{he} had once watched the {expert} do it.
The {expert} wished {him} good luck.
"Never forget the {needs}," said the {expert}.
{name} borrowed {a_tool} from the {expert}.
The {expert} shook {his} hand and smiled.
"It takes years to learn that," the {expert} told {him}.
{he} remembered the words of the {expert}.
The {expert} sold {him} some {needs} cheaply.
An old {expert} had taught {him} all {he} knew.
The {expert} looked {him} up and down.
"You remind me of myself," the {expert} told {him}.
""",
    "place": """
{name} began {place}.
{time}, {he} went to work {place}.
{he} met nobody {place}.
It was quiet {place}, and {name} liked that.
There was plenty of room {place}.
{name} knew a good spot {place}.
Everything {he} needed was {place}.
{time}, {name} could be found {place}.
{he} spent hour after hour {place}.
{place}, {name} felt at home.
{name} put down {his} bag {place}.
No one disturbed {him} {place}.
It was still dark {place} when {name} arrived.
{he} had often been {place} as a child.
""",
    "needs": """
{he} needed some {needs}.
{name} bought some {needs} and {a_tool}.
First {he} had to get some {needs}.
{he} packed {a_tool} and some {needs}.
In {his} bag were {a_tool} and some {needs}.
{name} had some {needs}, but no {tool}.
{he} spent all {his} money on some {needs}.
{name} looked everywhere for {a_tool}.
There was {a_tool} under {his} bed.
{name} made a list: {needs}, {more}, {a_tool}.
{he} found {a_tool} and some {needs} at home.
{his} {receiver} gave {him} {a_tool}.
{name} cleaned {his} {tool} and put out some {needs}.
{his} grandfather had left {him} {a_tool}.
All {he} had was {a_tool} and some {needs}.
{name} traded {his} scarf for {a_tool}.
{he} carried the {tool} in one hand.
{he} laid the {tool} next to the {needs}.
A new {tool} cost more than {he} had.
{name} kept {his} best {tool} in a box.
""",
    "step": """
{he} {step}.
{name} {step}.
Then {he} {step}.
Next, {name} {step}.
After that, {he} {step}.
Soon {name} {step}.
Without delay {he} {step}.
{name} nodded and {step}.
A little later {he} {step}.
{he} smiled and {step}.
{name} took a deep breath, then {step}.
As {he} had been taught, {he} {step}.
Step by step {he} went on and {step}.
Humming a tune, {name} {step}.
{he} looked at the clock and {step}.
With great care {name} {step}.
""",
    "first": """
First {he} {step}.
{name} {step} to begin with.
To start with, {name} {step}.
Before anything else, {he} {step}.
It began well: {he} {step}.
{time}, {name} {step}.
{he} got up and {step}.
At the start {name} {step}.
""",
    "together": """
{friend} watched while {name} {step}.
{name} and {friend} {step}.
Together they {step}.
While {friend} held the {tool}, {name} {step}.
{name} {step}, and {friend} looked on.
{friend} nodded as {name} {step}.
With the help of {friend}, {he} {step}.
"Like this," said {name}, and {step}.
""",
    "detail": """
{detail}.
All the while {detail}.
Meanwhile, {detail}.
{name} hardly noticed that {detail}.
{detail}, but {name} kept on.
For a moment {he} listened: {detail}.
{detail}, and {name} was in no hurry.
{he} looked around and saw that {detail}.
""",
}
