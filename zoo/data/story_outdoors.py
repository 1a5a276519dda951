"""What stories are about, outdoors: land, water, animals and sport. `zoo.data.story_topics.Topic` says what the fields are."""

from zoo.data.story_topics import Topic

OUTDOORS = (
    Topic(
        "grow grew",
        things="giant pumpkin, rose bush, sunflower, apple tree, bean plant, grape vine, watermelon, tomato plant",
        needs="rich soil, horse manure, rain water, garden twine, bamboo canes, good seed",
        tools="spade, rake, watering can, garden fork, pair of shears, hoe",
        places="in the garden, in the greenhouse, on the allotment, behind the vicarage",
        people="gardener, florist, botanist",
        steps="pulled up the thistles, turned the soil with a fork, raked away the pebbles, planted a single seed, "
        "watered it at dusk, tied the stem to a cane, picked off the slugs",
        troubles="greenfly covered every leaf: sprayed them with soapy water; "
        "the ground was baked hard: carried water from the well; a mole dug up the bed: planted garlic around it; "
        "frost was on the way: spread straw over the roots",
        done="the {head} was bigger than ever; the {head} was the pride of the garden",
        ends="{friend} measured it with a rope; bees found it the same morning; it won a blue rosette",
        details="worms wriggled in the dark earth; a blackbird sang from the hedge; the compost steamed gently",
    ),
    Topic(
        "catch caught",
        things="silver trout, huge pike, salmon, speckled eel, carp, sea bass, catfish, perch",
        needs="fat worms, strong line, cheese rinds, stale bread, barbed hooks, good bait",
        tools="fishing rod, landing net, folding stool, tackle box, lobster pot, reel",
        places="at the lake, on the riverbank, by the harbour wall, at the mill pond",
        people="fisherman, harbour master, ferryman",
        steps="dug worms from the bank, tied on a new hook, cast the line far out, watched the float, felt a sudden tug, "
        "wound in the reel, slipped the net underneath",
        troubles="the line was caught in the reeds: waded in to free it; a heron stole the bait: moved further downstream; "
        "the rod bent and cracked: bound it with string; nothing had bitten for hours: tried the shade of a willow",
        done="the {head} lay in the net; the {head} was safely in the bucket",
        ends="{friend} took a photograph of it; it was let go with a splash; it was the biggest of the season",
        details="dragonflies skimmed the surface; ripples spread from a jumping fish; mist lay over the reeds",
    ),
    Topic(
        "climb climbed",
        things="steep hill, white cliff, snowy peak, volcano, rocky ridge, north face, mountain, lonely crag",
        needs="warm socks, dried fruit, thick rope, spare gloves, raisins, sun cream",
        tools="compass, ice axe, helmet, whistle, rucksack, pair of binoculars",
        places="in the mountains, above the valley, near the old quarry, at the edge of the moor",
        people="mountain guide, shepherd, ranger",
        steps="tightened both boot laces, studied the route, set off at a steady pace, found a good foothold, "
        "crossed a narrow ledge, rested on a flat rock, scrambled up the last few metres",
        troubles="the path had crumbled away: found a way around; a thick cloud came down: waited beside a cairn; "
        "loose stones began to slide: pressed flat against the wall; the rope was too short: added a second one",
        done="the top of the {head} was reached; the whole {head} lay below",
        ends="{friend} shouted and heard an echo; they could see three counties; a flag fluttered at the summit",
        details="an eagle circled far above; goat bells clanked in the distance; gravel crunched underfoot",
    ),
    Topic(
        "sail sailed",
        things="small sloop, wooden dinghy, old yacht, catamaran, schooner, racing cutter, tall ship, ketch",
        needs="fresh water, ship biscuits, tarred rope, spare canvas, dry matches, blankets",
        tools="sextant, sailing knife, life jacket, chart, oar, foghorn",
        places="in the bay, on the wide river, on the north coast, among the islands",
        people="captain, sailor, lighthouse keeper",
        steps="untied the mooring rope, hoisted the main sail, pushed off from the jetty, steered past the buoy, "
        "baled out the bottom, kept close to the shore, dropped anchor in a cove",
        troubles="the mast groaned and cracked: lashed it with rope; a fog bank rolled in: sounded the horn; "
        "water leaked through the hull: plugged the hole with a shirt; the wind died completely: took up the oars",
        done="the {head} reached the harbour; the {head} glided up to the pier",
        ends="{friend} waved a towel from the quay; dolphins followed them home; the crew sang all evening",
        details="waves slapped against the side; gulls screamed above the deck; salt dried on every rope",
    ),
    Topic(
        "rescue rescued",
        things="lost lamb, injured owl, stray kitten, baby seal, trapped fox, hedgehog, wild pony, swan",
        needs="clean bandages, soft hay, warm milk, disinfectant, cotton wool, tinned meat",
        tools="cage, blanket, feeding bottle, syringe, dog lead, cardboard box",
        places="in the forest, at the animal shelter, beside the motorway, on the marsh",
        people="vet, zoo keeper, farmer",
        steps="crept closer on tiptoe, spoke in a low voice, held out some food, wrapped it in a towel, "
        "felt for broken bones, cleaned the wound, made a bed of straw",
        troubles="it kicked and struggled: backed off and sat still; its leg was stuck under wire: snipped the wire; "
        "it would not drink a drop: dripped milk from a finger; a storm blew the roof off the pen: carried it indoors",
        done="the {head} was strong again; the {head} could go home",
        ends="{friend} opened the door of the cage; it looked back once; it came to visit every autumn",
        details="paw prints crossed the mud; an engine droned far away; twigs snapped in the undergrowth",
    ),
    Topic(
        "win won",
        things="sack race, marathon, relay race, obstacle race, hurdle race, charity run, mile race, potato race",
        needs="light shoes, glucose sweets, bananas, safety pins, ankle bandages, cold water",
        tools="stopwatch, headband, starting pistol, towel, water bottle, trophy",
        places="at the stadium, on the sports field, in the park, at the leisure centre",
        people="coach, referee, champion",
        steps="pinned on a number, jogged on the spot, bent down at the line, shot forward at the signal, passed two rivals, "
        "kept a steady rhythm, sprinted down the final stretch",
        troubles="a lace came undone: kicked off the shoe; a sharp pain struck in the side: breathed slowly through the nose; "
        "the leader was far ahead: lengthened every stride; the ground was thick with mud: swerved to the grass",
        done="the {head} was won by a whisker; the {head} ended in a photo finish",
        ends="{friend} ran onto the track; a medal was hung on a ribbon; the loser was the first to shake hands",
        details="flags snapped in the breeze; a loudspeaker crackled; the crowd stamped on the benches",
    ),
    Topic(
        "photograph photographed",
        things="kingfisher, herd of deer, barn owl, golden eagle, badger, red fox, heron, wild goose",
        needs="fresh film, hot cocoa, dark clothes, lens wipes, tent pegs, face paint",
        tools="camera, zoom lens, tent, field guide, light meter, head torch",
        places="in the nature reserve, by the reed bed, on the heath, in the bird hide",
        people="zoologist, wildlife expert, photographer",
        steps="hid behind a screen of ferns, set up the tripod, cleaned the lens, adjusted the focus, "
        "waited without a sound, held one breath, pressed the shutter",
        troubles="the lens steamed up: warmed it under a jumper; a jogger scared everything away: waited another hour; "
        "it was too dark to focus: opened the aperture; the battery went flat: borrowed one from a tourist",
        done="the {head} was caught on film; the picture of the {head} was perfect",
        ends="{friend} wanted a copy at once; a magazine put it on the cover; every detail was sharp",
        details="bats flitted over the pond; stars prickled above the pines; a beetle crawled across the lens cap",
    ),
    Topic(
        "fly flew",
        things="dragon kite, box kite, diamond kite, silk kite, giant kite, stunt kite, paper kite, fish kite",
        needs="strong twine, tissue paper, balsa wood, bamboo splints, paste, long ribbons",
        tools="spool, wind gauge, pocket knife, glue pot, sandbag, winding stick",
        places="on the beach, on the airfield, on the common, at the top of the hill",
        people="retired pilot, kite maker, weather forecaster",
        steps="licked a finger to feel the wind, unrolled the string, checked every knot, took a long run up, "
        "let go at the right moment, leaned into the turn, brought it gently down",
        troubles="it dived nose first into the sand: lengthened the tail; "
        "the string was snagged in a tree: climbed up and freed it; one side tore along the edge: taped on a patch; "
        "the wind changed without warning: ran the other way",
        done="the {head} soared above the roofs; the {head} hung in the sky like a star",
        ends="{friend} lay back to watch; children chased its shadow; it landed at their feet",
        details="clouds raced across the sun; swallows darted below it; tall grass bent in waves",
    ),
    Topic(
        "find found",
        things="rare orchid, pirate chest, Roman coin, hidden cave, fossil, meteorite, gold nugget, secret tunnel",
        needs="old maps, candles, sandwiches, sturdy boots, chalk, strong torches",
        tools="metal detector, shovel, lantern, pickaxe, trowel, crowbar",
        places="in the ruined abbey, in the canyon, on the small island, under the castle",
        people="geologist, treasure hunter, historian",
        steps="unfolded the faded map, took forty paces east, pushed through the brambles, knelt down by a boulder, "
        "scraped away the moss, dug a narrow trench, lifted a heavy slab",
        troubles="the map was torn in half: guessed the rest; the entrance was blocked: levered the rocks aside; "
        "the lantern blew out: felt along the wall; a swarm of wasps appeared: hid behind a waterfall",
        done="the {head} was there after all; the {head} glinted in the light",
        ends="{friend} danced with joy; the museum gave it a glass case; the discovery made them famous",
        details="roots hung from the ceiling; bones of a bird lay in the dust; drops of water echoed below",
    ),
    Topic(
        "train trained",
        things="sheepdog, guide dog, police dog, young beagle, rescue dog, hunting dog, watchdog, sledge dog",
        needs="dried liver, oats, small rewards, soft brushes, clean straw, corn",
        tools="leash, dog whistle, feeding bowl, rubber ball, bell, clicker",
        places="in the yard, in the paddock, at the kennels, in the orchard",
        people="dog trainer, groom, huntsman",
        steps="let it sniff an open hand, taught it to sit, walked it round in circles, gave a clear signal, "
        "rewarded it with a treat, hid the ball under a crate, took away the lead",
        troubles="it bolted after a rabbit: called it back with a whistle; it chewed through the rope: used a chain instead; "
        "it was afraid of traffic: practised on quiet lanes; it refused to move: tempted it with a sausage",
        done="the {head} did as it was told; the {head} came at the first call",
        ends="{friend} gave it a bone; it was never on a lead again; they became the best of friends",
        details="flies buzzed around the trough; hay dust made everyone sneeze; a gate creaked in the wind",
    ),
    Topic(
        "ride rode",
        things="grey mare, unicycle, mountain bike, motorbike, black stallion, tandem, racing bike, old donkey",
        needs="knee pads, sugar lumps, warm mittens, leather gloves, bandages, oatcakes",
        tools="riding cap, helmet, pair of goggles, hoof pick, spanner, map case",
        places="along the coast, in the hills, on the forest trail, on the dirt track",
        people="stunt rider, postman, instructor",
        steps="buckled up the chin strap, swung into position, found the right balance, started at walking pace, "
        "leaned into the first bend, jumped a shallow ditch, raced along the straight",
        troubles="the ground dropped away suddenly: braked with both heels; a fallen trunk lay ahead: steered around it; "
        "dust flew into both eyes: pulled down the goggles; everything tilted to the left: shifted to the right",
        done="the ride on the {head} was over; the {head} came safely to a stop",
        ends="{friend} begged for a turn; a cloud of dust settled behind them; nobody had ever done it faster",
        details="the horizon shook in the heat; pebbles flew up behind; pine trees rushed by",
    ),
    Topic(
        "dig dug",
        things="deep well, fish pond, canal, water channel, duck pond, storm drain, swimming pool, trout pond",
        needs="cement, clay pipes, gravel, dry socks, wooden props, fence posts",
        tools="shovel, pickaxe, bucket, measuring rod, mallet, pulley",
        places="in the meadow, behind the school, at the foot of the hill, by the farmhouse",
        people="builder, plumber, surveyor",
        steps="marked a square with pegs, rolled up both sleeves, cut out the turf, threw the earth to one side, "
        "hauled up the stones, levelled the bottom, lined the walls with clay",
        troubles="a giant boulder was in the way: rolled it out with a lever; the sides caved in: propped them with boards; "
        "the shovel handle broke: whittled a new one; muddy water filled the hole: drained it with a hose",
        done="the {head} was deep enough; the {head} was finished down to the last stone",
        ends="{friend} tossed in a coin; rain filled it the same night; the whole village came to look",
        details="a lark rose from the stubble; mud stuck to every boot; the heap of earth grew taller",
    ),
    Topic(
        "sell sold",
        things="jar of honey, basket of eggs, woven rug, wheel of cheese, crate of apples, sack of potatoes, lamp, antique vase",
        needs="small change, price tags, paper bags, wrapping paper, clothes pegs, chalk",
        tools="pair of scales, cash box, folding table, wicker basket, blackboard, parasol",
        places="at the market, on the square, at the fairground, by the roadside",
        people="grocer, merchant, cheesemonger",
        steps="loaded the cart at sunrise, picked a spot near the fountain, spread out a cloth, chalked up the price, "
        "called to people passing by, offered a fair price, counted out the change",
        troubles="no customer stopped: halved the price; the wind knocked over the stall: tied it to a lamp post; "
        "a rival shouted louder: played a tune on a mouth organ; "
        "a thief grabbed the money: chased him round the fountain",
        done="the {head} had a new owner; the {head} was sold for a fair sum",
        ends="{friend} packed up the empty stall; coins jingled all the way home; they shared a bag of hot chestnuts",
        details="pigeons pecked between the stalls; a barrel organ played nearby; spices perfumed the aisle",
    ),
    Topic(
        "deliver delivered",
        things="parcel, birthday cake, bunch of tulips, secret message, sack of letters, crate of lemons, wedding dress, "
        "telegram",
        needs="bubble wrap, string, brown paper, stamps, labels, rubber bands",
        tools="bicycle basket, clipboard, street map, satchel, pocket torch, umbrella",
        places="in the city, at the post office, in the suburbs, on the tram",
        people="postwoman, taxi driver, shopkeeper",
        steps="checked the address twice, wrapped it with care, loaded it at the kerb, turned left at the bridge, "
        "asked the way at a kiosk, climbed five flights of stairs, rang the bell",
        troubles="the street had no name: asked a boy on a swing; a tyre went flat: pushed on foot; "
        "the address was smudged: held it up to the sun; the bridge was closed: took the ferry",
        done="the {head} was handed over; the {head} arrived on the stroke of noon",
        ends="{friend} was given a generous tip; the door opened with a cry of delight; someone signed with a shaky hand",
        details="horns blared at the crossing; shop windows glittered; pigeons scattered before the wheels",
    ),
    Topic(
        "explore explored",
        things="jungle, swamp, river delta, mangrove forest, lost valley, rain forest, coral island, cloud forest",
        needs="dried beans, mosquito nets, rations, waterproof matches, insect cream, clean water",
        tools="water filter, radio, machete, hammock, flare gun, field map",
        places="in the tropics, at the research base, at the end of the world, beyond the ridge",
        people="explorer, biologist, navigator",
        steps="packed for a long journey, said goodbye to everyone, entered without a sound, drew each turn on a chart, "
        "collected a sample, noted strange tracks, pressed on into the unknown",
        troubles="the radio fell silent: fixed the aerial; a snake blocked the way: made a wide circle; "
        "the supplies were running low: gathered berries; everybody was lost: followed the stream",
        done="the {head} had given up its secrets; the last corner of the {head} was mapped",
        ends="{friend} named a bay after them; their report filled ninety pages; the expedition was a triumph",
        details="insects chirped without pause; vines trailed from the canopy; something large splashed nearby",
    ),
    Topic(
        "drive drove",
        things="red tractor, racing car, school bus, fire engine, snow plough, lorry, milk float, delivery van",
        needs="diesel, anti-freeze, snow chains, thick gloves, engine oil, spare fuses",
        tools="spark plug, wrench, jack, oil can, flashlight, tow rope",
        places="on the motorway, in the depot, on the mountain pass, on the ring road",
        people="lorry driver, bus conductor, firefighter",
        steps="climbed up into the cab, turned the key, checked all the dials, released the brake, rolled slowly out, "
        "changed into top gear, sounded the horn at the crossing",
        troubles="the engine coughed and died: cleaned the filter; sheep stood all over the road: clapped to move them; "
        "a warning lamp flashed: topped up the oil; a tree had fallen ahead: dragged it aside with a chain",
        done="the {head} pulled in on time; the {head} was back in its shed",
        ends="{friend} blew the whistle twice; people clapped and cheered; the engine ticked as it cooled",
        details="telegraph poles flicked past; gravel rattled under the wheels; the wipers squeaked to and fro",
    ),
    Topic(
        "restore restored",
        things="windmill, stone bridge, lighthouse, old cottage, chapel tower, water wheel, garden wall, fountain",
        needs="mortar, lime wash, slate tiles, oak beams, putty, roofing felt",
        tools="sledgehammer, paint scraper, plumb line, wire brush, hod, caulking gun",
        places="at the crossroads, above the gorge, on the estate, near the weir",
        people="stonemason, architect, thatcher",
        steps="put up a scaffold, hacked off the crumbling plaster, propped up the arch, mixed a barrow of mortar, "
        "replaced the rotten timber, pointed the joints, whitewashed the outside",
        troubles="the scaffold swayed in the gale: anchored it with cables; ivy had split the stones: cut it back to the root; "
        "bats were asleep in the rafters: worked on the far side; the cellar flooded: bailed it out with pails",
        done="the {head} looked a hundred years younger; the {head} was saved from ruin",
        ends="{friend} unveiled a small plaque; jackdaws returned to nest; coach parties stopped to admire it",
        details="plaster rained from above; a chisel rang against granite; nettles choked the doorway",
    ),
    Topic(
        "chase chased",
        things="runaway goat, pickpocket, stolen bicycle, escaped monkey, burglar, rolling barrel, runaway pram, cheeky fox",
        needs="peanuts, spare shoelaces, lasso rope, bait, breath mints, road flares",
        tools="whistle, butterfly net, loudhailer, skateboard, lasso, walking stick",
        places="in the shopping arcade, along the embankment, in the maze, through the vineyard",
        people="policeman, park keeper, zoo director",
        steps="dashed round the corner, vaulted over a fence, ducked under a washing line, skidded across the cobbles, "
        "squeezed through a hedge, dodged a lamp post, made one last dive",
        troubles="a parade blocked the alley: crawled between the drummers; a gate slammed shut: scaled the railings; "
        "the trail ended at a fountain: spotted wet tracks; a banana skin lay in wait: slithered but stayed upright",
        done="the chase after the {head} was over; the {head} was cornered at last",
        ends="{friend} arrived panting a minute later; shoppers broke into applause; a constable took down every word",
        details="hats toppled from a stall; shutters flew open; a tram screeched to a standstill",
    ),
)
