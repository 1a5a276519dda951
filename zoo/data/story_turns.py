"""The sentences that stories turn and end with, by their place in a story; slots as in `zoo.data.story_templates`."""

TURNS = {
    "pet": """
{his} {kind} {pet} watched every move.
{pet}, {his} {kind}, followed {him} about.
{his} {kind} {pet} sat down on the {needs}.
{name} had to keep the {tool} away from {pet}, {his} {kind}.
{pet} the {kind} slept at {his} feet.
{his} {kind} was called {pet} and went with {him} everywhere.
{name} told {his} {kind} {pet} to keep still.
{his} {kind} {pet} ran off with a glove.
{pet}, the {kind}, was more hindrance than help to {him}.
{name} shared {his} sandwich with {pet}, {his} {kind}.
""",
    "pet_again": """
{pet} hid behind {name} until it was over.
{pet} jumped up at {name} with joy.
{name} scratched {pet} behind the ear.
Even {pet} looked at {him} in surprise.
{pet} fell asleep on {his} coat.
{pet} knew that {name} would manage.
{name} gave {pet} an extra supper.
Nobody had counted on {pet}, least of all {name}.
""",
    "trouble": """
But then {trouble}.
Suddenly there was a problem: {trouble}.
To {his} dismay, {trouble}.
{name} saw that {trouble}.
Everything went well until {trouble}.
Just as {he} felt safe, {trouble}.
{he} had not expected it, but {trouble}.
"Oh no," cried {name}, for {trouble}.
That was when {trouble}.
It was bad luck that {trouble}.
Only one thing went wrong: {trouble}.
{time}, however, {trouble}.
Halfway through, {trouble}.
{name} groaned, because {trouble}.
""",
    "sad": """
{name} was {sad}.
{he} felt {sad}.
{name} sat down, {sad} and tired.
{he} was so {sad} that {he} kicked a bucket.
For a while {name} was quite {sad}.
{name} had seldom been so {sad}.
{he} tried not to look {sad}.
"That is the end," sighed {name}.
{name} almost gave up.
{his} heart sank.
{he} bit {his} lip and said nothing.
{name} put {his} head in {his} hands.
A lump rose in {his} throat.
{he} wished {he} had stayed in bed.
Would {name} ever {goal}?
{name} stared at the {head} and felt {sad}.
Nothing like that had ever happened to {him}.
{he} walked up and down, {sad} and silent.
All {his} hard work seemed lost.
What would {his} {receiver} say to {him}?
""",
    "comfort": """
"Do not give up," {friend} told {him}.
{friend} put an arm around {his} shoulders.
"It happens to everyone," {friend} told {him}.
{friend} handed {him} a handkerchief.
"I know what to do," {friend} whispered to {him}.
{friend} could not help laughing, and {name} laughed too.
"You have still got your {tool}," {friend} told {him}.
{friend} made {him} a cup of tea.
"Think again," {friend} said to {him}.
{friend} looked at {him} and waited.
""",
    "think": """
{name} thought hard about it.
Then {name} had an idea.
{he} decided to {idea}.
"I must {idea}," thought {name}.
It was best to {idea}, {name} thought.
{name} scratched {his} head and looked at the {tool}.
{he} asked {himself} what the {expert} would do.
After an hour {he} had a plan.
The {tool} gave {him} an idea.
{name} stood up again and made a new plan.
{he} would not let that stop {him}.
In the night {he} dreamed of the answer.
"There must be a way," said {name}.
{name} looked at the {needs}, and then {he} knew.
All at once {he} saw what was wrong.
{he} knew that {he} had to {idea}.
""",
    "remedy": """
So {he} {remedy}.
{name} {remedy}.
In the end {name} {remedy}.
{he} {remedy}, and that helped.
Luckily {he} had an answer: {he} {remedy}.
{he} did not panic but {remedy}.
Without a word {name} {remedy}.
{name} jumped up and {remedy}.
It took a while, but {he} {remedy}.
Since there was no other way, {he} {remedy}.
That did not stop {name}: {he} {remedy}.
Quick as a flash {name} {remedy}.
{he} stayed calm and {remedy}.
{name} laughed and {remedy}.
""",
    "relief": """
That did the trick, and {name} was {glad}.
It worked, and {name} was {glad}.
"That is better," said {name}.
Now nothing could stop {name}.
{he} breathed again and went on {how}.
{name} was {glad} and set to work again.
After that it was easy for {him}.
{name} wiped {his} brow and went on {how}.
From then on everything went well for {him}.
The worst was behind {him}.
{he} whistled as {he} took up the {tool} again.
{name} was surprised how simple it was.
""",
    "done": """
{later}, {done}.
And so, {later}, {done}.
{name} could hardly believe it, but {later} {done}.
{later} {name} cheered, for {done}.
It was hard work, but {later} {done}.
"I did it!" cried {name}, for {done}.
Thanks to {name}, {done}.
{name} rubbed {his} eyes: {done}.
{he} had done it: {done}.
{name} had managed to {goal}, and {done}.
{later} {he} put down the {tool}, for {done}.
{name} let out a shout, because {done}.
""",
    "end": """
{end}.
Best of all, {end}.
{name} beamed when {end}.
What is more, {end}.
{he} grinned, for {end}.
To the joy of {name}, {end}.
{name} noticed with pride that {end}.
{later}, {end}.
""",
    "reaction": """
"You really did it!" {friend} told {him}.
{friend} gave {him} a big hug.
"I knew you could {goal}," {friend} told {him}.
{friend} clapped {him} on the back.
"Teach me how," {friend} begged {him}.
{friend} said sorry for having doubted {him}.
{friend} was as {glad} as {name}.
{name} thanked {friend} for everything.
"Not bad at all," {friend} said to {him}.
{friend} gave {him} {prize}.
{name} and {friend} danced around the {tool}.
"I owe it all to you," {name} told {friend}.
{friend} could not stop looking at what {he} had done.
{name} and {friend} were too tired to speak.
{friend} told everyone about {him}.
{name} gave {friend} the {tool} to keep.
""",
    "gift": """
{his} {receiver} thanked {him} with {prize}.
At the {event} {he} was given {prize}.
The {expert} gave {him} {prize}.
{his} {receiver} came to see it and hugged {him}.
"Well done," the {expert} said to {him}.
For {his} trouble {name} got {prize}.
At the {event} everybody talked about {name}.
{his} {receiver} shed a tear and kissed {him}.
The {expert} asked {him} to come and work there.
{name} had earned {prize}, people said.
The {expert} could not have done it better than {name}.
{his} {receiver} hung a picture of {name} on the wall.
""",
    "closing": """
{name} went to bed {glad} that night.
{he} never forgot that {season}.
{name} slept well that night in {town}.
{he} was already planning the next one.
From that day on, {name} believed in {himself}.
Next time {he} would {goal} in half the time.
{name} put the {tool} away and smiled.
It had been the best {season} of {his} life.
"Tomorrow I will rest," said {name}.
{name} wrote it all down in {his} diary.
{he} walked home through {town}, {glad} and tired.
To this day they speak of {name} in {town}.
{name} was {glad} that {he} had not given up.
{he} kept a photograph of the {head} by {his} bed.
{name} had learned to {idea}.
{name} looked at {his} hands and was {glad}.
And that is how {name} came to be known in {town}.
The {tool} got a place of honour in {his} house.
Years later {name} still talked about it.
{he} told the story again and again.
And so {name} {did} after all.
That was the {season} when {name} {did}.
{name} hung up {his} coat and put the kettle on.
{name} fell asleep with the {tool} in {his} hand.
""",
}
