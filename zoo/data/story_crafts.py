"""What stories are about, indoors: crafts and skills. `zoo.data.story_topics.Topic` says what the fields are."""

from zoo.data.story_topics import Topic

CRAFTS = (
    Topic(
        "bake baked",
        things="cherry pie, honey cake, plum tart, ginger loaf, walnut roll, lemon cake, apple crumble, almond loaf",
        needs="white flour, soft butter, brown sugar, fresh eggs, sweet cream, dried yeast",
        tools="rolling pin, wooden spoon, mixing bowl, sieve, baking tray, whisk",
        places="in the kitchen, in the old bakery, at the inn, in the mill house",
        people="baker, pastry cook, miller",
        steps="tied on a clean apron, sifted the flour twice, cracked four eggs, kneaded the dough by hand, "
        "greased the tin with lard, lit the oven, set a timer for an hour",
        troubles="the oven would not light: scrubbed the burner with a brush; "
        "the dough was far too wet: added another cup of flour; "
        "the sugar jar was empty: borrowed sugar from next door; "
        "smoke came out of the oven: scraped the burnt crumbs away",
        done="the {head} came out of the oven; the {head} was golden and crisp",
        ends="{friend} ate three slices; steam curled from the warm crust; not one crumb was left on the plate",
        details="flour dust hung in the warm air; a pan rattled on the stove; the room smelled of cinnamon",
    ),
    Topic(
        "sew sewed",
        things="wool coat, silk dress, velvet cloak, linen shirt, winter jacket, evening gown, puppet costume, tweed suit",
        needs="blue thread, strong cotton, brass buttons, soft lining, spare ribbon, felt patches",
        tools="needle, pair of scissors, thimble, tape measure, pin cushion, seam ripper",
        places="in the attic, at the tailor shop, in the spare room, by the window",
        people="tailor, weaver, dressmaker",
        steps="measured the cloth with care, drew the pattern in chalk, cut along the white lines, "
        "pinned the edges together, threaded the finest needle, stitched the long seams, "
        "pressed the folds with a hot iron",
        troubles="the needle snapped in two: found another in a tin box; one sleeve was too short: let down the hem; "
        "the thread was in a terrible tangle: combed out the knots; "
        "the cloth ripped at the shoulder: hid the tear under a pocket",
        done="the {head} hung ready on its hook; the last stitch of the {head} was tied",
        ends="{friend} turned it inside out to admire the seams; the {head} fitted perfectly; "
        "people asked where it had been bought",
        details="scraps of fabric covered the floor; the machine hummed like a bee; bobbins rolled under the table",
    ),
    Topic(
        "build built",
        things="tree house, rabbit hutch, garden shed, wooden bench, bird table, toy castle, rocking chair, bookcase",
        needs="pine boards, iron nails, long screws, wood glue, green varnish, old planks",
        tools="hammer, handsaw, spirit level, chisel, drill, plane",
        places="in the workshop, behind the barn, in the yard, under the oak",
        people="carpenter, joiner, roofer",
        steps="sketched a plan on brown paper, marked the boards with a pencil, sawed the posts to length, "
        "smoothed the rough edges, drilled a row of holes, hammered the frame together, painted two coats of varnish",
        troubles="the saw was hopelessly blunt: sharpened it on a stone; "
        "one post was shorter than the rest: trimmed the other three; "
        "a plank split down the middle: glued and clamped it; the nails bent like wire: changed to longer screws",
        done="the {head} stood firm on the ground; the final nail of the {head} went in",
        ends="{friend} jumped on it to test it; it did not wobble at all; a robin perched on it at once",
        details="sawdust drifted in the sunlight; curls of wood lay everywhere; a ladder leaned against the wall",
    ),
    Topic(
        "paint painted",
        things="portrait, mural, winter landscape, harbour scene, bowl of fruit, sunset, family picture, stage backdrop",
        needs="scarlet paint, thick paper, linseed oil, charcoal sticks, clean rags, gold leaf",
        tools="easel, fine brush, palette, sketchbook, sponge, palette knife",
        places="in the studio, on the balcony, in the art room, beside the canal",
        people="painter, art teacher, gallery owner",
        steps="stretched the canvas tight, made a quick outline, mixed a pale grey, filled in the background, "
        "dabbed light on the edges, deepened every shadow, signed a corner in red",
        troubles="the blue had dried up: ground some fresh colour; a fly stuck to the wet surface: lifted it off with a pin; "
        "one corner looked empty: added a small bird; water spilled over the drawing: blotted it with a cloth",
        done="the {head} was framed at last; nothing more could be added to the {head}",
        ends="{friend} stared at it in silence; the {head} was hung in the town hall; its colours seemed to glow",
        details="jars of brushes crowded the shelf; turpentine stung the nose; a cat left one blue pawprint",
    ),
    Topic(
        "learn learned",
        things="violin solo, guitar piece, cello suite, slow waltz, harp melody, lullaby, fiddle tune, banjo song",
        needs="sheet music, spare strings, music paper, lesson notes, warm gloves, extra reeds",
        tools="metronome, music stand, tuning fork, pitch pipe, violin bow, cake of rosin",
        places="in the music room, in the concert hall, in the chapel, in the cellar",
        people="conductor, organist, violin teacher",
        steps="warmed up with scales, read the first line aloud, clapped the beat, practised the left hand, "
        "repeated the chorus, hummed along with the melody, played it through by heart",
        troubles="a string broke with a twang: fitted a new one; the middle part was too fast: slowed it right down; "
        "the neighbours banged on the wall: put a blanket over the door; one peg kept slipping: rubbed it with chalk",
        done="the {head} sounded just right; every note of the {head} was in place",
        ends="{friend} asked for an encore; the audience rose and cheered; the final chord rang on and on",
        details="the floor trembled with each low note; dust danced above the piano; someone whistled outside",
    ),
    Topic(
        "carve carved",
        things="chess queen, wooden duck, walking stick, mask, totem, flute, salad spoon, puppet head",
        needs="lime wood, beeswax, sandpaper, cedar blocks, dark stain, leather strips",
        tools="pocket knife, gouge, mallet, file, rasp, whetstone",
        places="in the shed, on the porch, at the craft fair, by the campfire",
        people="woodcarver, toymaker, forester",
        steps="chose a block without knots, traced the shape on every side, cut away the corners, rounded the back, "
        "thinned the edges, rubbed it with fine sandpaper, polished it with wax",
        troubles="the knife slipped and left a scar: turned the scar into a feather; "
        "the wood was harder than stone: soaked it overnight; a chip flew off the tip: made the tip rounder; "
        "the vice lost its grip: wrapped cloth around the jaws",
        done="the {head} felt smooth to the touch; the {head} seemed almost alive",
        ends="{friend} weighed it in one palm; a collector offered silver for it; the grain shone like honey",
        details="shavings piled up like snow; the fire spat now and then; resin scented the evening",
    ),
    Topic(
        "write wrote",
        things="ghost story, short play, travel book, novel, fairy tale, detective story, adventure story, biography",
        needs="lined paper, black ink, old newspapers, strong tea, blotting paper, envelopes",
        tools="fountain pen, stapler, notebook, dictionary, desk lamp, eraser",
        places="in the library, at the desk, in the cafe, in the reading room",
        people="editor, librarian, poet",
        steps="listed a dozen ideas, thought of a title, described the hero, scribbled the opening page, "
        "crossed out dull words, read each paragraph aloud, copied it in neat handwriting",
        troubles="the page stayed blank for an hour: began with the ending instead; the ink ran dry: switched to a pencil; "
        "the plot made no sense: left out two chapters; a gust scattered the sheets: numbered every page",
        done="the {head} was signed and dated; the closing line of the {head} was written",
        ends="{friend} read it twice; the {head} was printed in the spring; it made the whole class laugh",
        details="the clock ticked above the shelves; rings of coffee marked the desk; crumpled drafts filled the basket",
    ),
    Topic(
        "repair repaired",
        things="bicycle, pocket watch, radio, sewing machine, music box, typewriter, scooter, cuckoo clock",
        needs="light oil, copper wire, spare bolts, rubber patches, tiny springs, sticky tape",
        tools="spanner, screwdriver, pair of pliers, magnifying glass, soldering iron, air pump",
        places="in the garage, at the repair stall, at the kitchen table, in the basement",
        people="mechanic, watchmaker, engineer",
        steps="laid out the parts in order, loosened the rusty screws, wiped off the old grease, checked each cog, "
        "swapped the worn bearing, tightened the bolts, tested it slowly",
        troubles="a spring shot across the room: swept the floor with a magnet; one bolt was rusted solid: soaked it in oil; "
        "a tiny lever was bent: straightened it against the bench; two parts were left over: took it apart once more",
        done="the {head} worked like new; the {head} was running smoothly",
        ends="{friend} tried it out at once; there was not the slightest squeak; three neighbours brought broken lamps",
        details="gears glittered on a towel; an oil stain spread on the bench; the radio crackled in the background",
    ),
    Topic(
        "shape shaped",
        things="clay jug, flower pot, tea bowl, fruit dish, tall vase, butter dish, water pitcher, honey jar",
        needs="red clay, river sand, blue glaze, clean water, white slip, dry firewood",
        tools="modelling stick, clay knife, wire cutter, wooden paddle, bucket, ribbon tool",
        places="at the pottery, in the clay hut, in the courtyard, near the kiln",
        people="potter, sculptor, ceramics teacher",
        steps="wedged the cold clay, centred a lump on the wheel, opened it with both thumbs, pulled up the walls, "
        "trimmed the foot, scratched a pattern of waves, dipped it in glaze",
        troubles="the walls sagged and fell: started over with stiffer clay; a crack ran along the rim: sealed it with slip; "
        "the kiln was not hot enough: fed it with oak logs; an air bubble burst: patched the hole",
        done="the {head} came glowing from the kiln; the {head} had cooled without a flaw",
        ends="{friend} tapped it and it rang; the glaze was as deep as a lake; it held water without a drip",
        details="grey puddles dried on the tiles; the wheel whirred in circles; shelves sagged under rows of cups",
    ),
    Topic(
        "cook cooked",
        things="fish stew, mushroom soup, pot of curry, vegetable lasagne, bean casserole, lamb roast, noodle salad, "
        "potato omelette",
        needs="fresh garlic, red onions, olive oil, ground pepper, chopped parsley, boiled rice",
        tools="frying pan, soup ladle, chopping board, copper pot, grater, carving knife",
        places="in the canteen, at the campsite, in the restaurant, at the scout hut",
        people="chef, waiter, dinner lady",
        steps="rinsed the vegetables, peeled and sliced the onions, crushed some garlic, heated oil in the pan, "
        "stirred everything together, tasted a spoonful, sprinkled herbs on top",
        troubles="the pot boiled over: turned down the flame; it tasted much too salty: dropped in a raw potato; "
        "there was no clean pan left: washed the big one; guests arrived an hour early: served bread and olives first",
        done="the {head} was ready to serve; the {head} bubbled in its dish",
        ends="{friend} licked the spoon; every bowl came back empty; even the fussy guests wanted more",
        details="the lid clattered over the steam; onions made everybody weep; pots gleamed on their hooks",
    ),
    Topic(
        "stage staged",
        things="comedy, puppet show, school musical, fairy tale, pantomime, tragedy, short opera, farce",
        needs="bright costumes, painted scenery, curly wigs, false beards, stage makeup, printed tickets",
        tools="megaphone, feather mask, cardboard crown, script, wooden sword, prompt book",
        places="at the theatre, in the village hall, on the pier, in the gym",
        people="director, actor, stagehand",
        steps="handed out the parts, learned two pages of lines, rehearsed the opening scene, hung up the scenery, "
        "fastened the last costume, peeked through the curtain, swallowed hard",
        troubles="the lead actor lost his voice: whispered the lines from the wings; "
        "the curtain jammed halfway: tugged it loose from a ladder; the lights went out: lit a row of lanterns; "
        "nobody remembered the ending: made up a funny speech",
        done="the curtain fell on the {head}; the {head} ended with a bow",
        ends="{friend} threw a bunch of roses; the applause lasted five minutes; the mayor wiped away tears of laughter",
        details="powder and perfume filled the dressing room; the front row rustled with sweets; "
        "a prop owl stared from the rafters",
    ),
    Topic(
        "program programmed",
        things="small robot, robot arm, toy submarine, drone, toy crane, robot dog, moon buggy, cleaning robot",
        needs="spare batteries, coloured wires, tiny magnets, rubber wheels, solder, plastic screws",
        tools="laptop, circuit board, sensor, remote control, cable, multimeter",
        places="in the computer lab, at the science club, in the bedroom, at the university",
        people="programmer, inventor, physics teacher",
        steps="opened the manual, connected the motor, typed the first commands, checked the voltage, fixed a silly error, "
        "loaded the code, pressed the green button",
        troubles="it only moved backwards: swapped two wires; the screen froze again: restarted the machine; "
        "a battery grew hot: put in a smaller one; one line of code was missing: searched for it line by line",
        done="the {head} blinked and beeped; the {head} obeyed every command",
        ends="{friend} gave it a silly nickname; it said good night to everyone; the club voted it the best project",
        details="fans purred inside the machines; lights winked red and green; a poster of planets curled off the wall",
    ),
    Topic(
        "mend mended",
        things="pair of boots, leather saddle, school satchel, football, pair of sandals, belt, dog collar, suitcase",
        needs="tough leather, waxed string, hard glue, tacks, shoe polish, brass rings",
        tools="awl, curved needle, shoe last, tack hammer, buffing brush, hole punch",
        places="at the cobbler's, in the stable, under the stairs, in the leather shop",
        people="cobbler, saddler, bootmaker",
        steps="brushed off the mud, unpicked the rotten seam, cut a strip of leather, punched a line of holes, "
        "pulled the string through, hammered down the edge, buffed it until it shone",
        troubles="the glue refused to set: warmed it by the stove; the leather was stiff as a board: rubbed it with fat; "
        "the buckle was lost: made one from wire; the colour did not match: dyed it dark brown",
        done="the {head} looked as good as new; no one could see where the {head} had been torn",
        ends="{friend} wanted one just like it; it lasted for many years; the customer paid double",
        details="the smell of polish was everywhere; soles hung in pairs from a beam; a bell tinkled over the door",
    ),
    Topic(
        "pour poured",
        things="scented candle, bar of soap, chocolate egg, sugar mouse, chocolate heart, beeswax candle, soap rabbit, wax angel",
        needs="melted wax, lavender oil, wicks, powdered dye, warm milk, coconut flakes",
        tools="double boiler, thermometer, mould, funnel, skewer, heavy kettle",
        places="in the candle shop, at the chemist's, in the pantry, in the glass works",
        people="candle maker, chemist, sweet seller",
        steps="put on thick gloves, warmed the mould, weighed out the mixture, melted it over a low flame, "
        "dropped in some colour, filled the mould to the brim, let it cool on the sill",
        troubles="the mixture set too quickly: heated it again; bubbles rose to the top: tapped the mould gently; "
        "the colour was dull: added three more drops; it would not leave the mould: held it under a hot tap",
        done="the {head} slid out of its mould; the {head} was hard and shiny",
        ends="{friend} held it up to the light; it was wrapped in tissue paper; the shop sold twenty of them",
        details="purple steam rose from the boiler; drips hardened on the counter; ribbons dangled from a nail",
    ),
    Topic(
        "solve solved",
        things="bank robbery, museum mystery, jewel theft, train robbery, stamp theft, art fraud, coin theft, castle mystery",
        needs="fingerprint powder, old newspapers, rubber gloves, photographs, index cards, strong coffee",
        tools="torch, camera, notepad, telescope, map of the town, pair of handcuffs",
        places="at the museum, at the police station, in the old mansion, on the night train",
        people="detective, night guard, journalist",
        steps="read the note again, interviewed the gardener, dusted the window for prints, followed a trail of mud, "
        "drew lines between the names, compared two signatures, laid a clever trap",
        troubles="the only witness had vanished: traced him to the docks; the clues pointed nowhere: looked behind the mirror; "
        "someone had burned the letter: pieced the ashes together; the numbers did not add up: counted them backwards",
        done="the {head} was a mystery no longer; the answer to the {head} was plain",
        ends="{friend} gasped at the answer; the thief turned pale; the case was in all the papers",
        details="footsteps creaked on the landing; the grandfather clock struck nine; a shadow slid past the curtains",
    ),
    Topic(
        "dance danced",
        things="tango, ballet, polka, jig, tap routine, flamenco, folk reel, harvest dance",
        needs="soft slippers, lively records, leg warmers, chalk, white tights, hair pins",
        tools="hand mirror, hand drum, tambourine, castanet, feather fan, silk scarf",
        places="in the ballroom, at the dance school, on the lawn, at the wedding hall",
        people="ballet teacher, fiddler, choreographer",
        steps="stretched both arms and legs, laced the slippers, bowed to the mirror, walked through the steps, "
        "counted to eight, spun on one heel, leapt across the hall",
        troubles="the music skipped and stopped: sang the tune instead; both ankles began to ache: rested with ice; "
        "the floor was far too slippery: scattered some chalk; a slipper flew off: carried on with bare feet",
        done="the {head} ended on the final beat; the {head} looked as light as air",
        ends="{friend} whirled around too; the judges held up high marks; petals rained on the stage",
        details="heels clicked on the boards; chandeliers sparkled overhead; skirts swirled like leaves",
    ),
    Topic(
        "knit knitted",
        things="striped jumper, bobble hat, long scarf, baby blanket, tea cosy, pullover, shawl, woollen vest",
        needs="lambswool, mohair, knitting patterns, stitch markers, wooden beads, moth balls",
        tools="crochet hook, yarn winder, pair of needles, row counter, darning egg, knitting basket",
        places="by the fireside, in the rocking chair, at the wool shop, in the sewing circle",
        people="shepherdess, weaver, wool merchant",
        steps="wound the wool into balls, studied the pattern, cast on eighty stitches, knitted a band of ribbing, "
        "switched to the second colour, counted every row, sewed the sides together",
        troubles="the kitten had unravelled a skein: rolled it up again; "
        "three stitches were dropped: picked them up with a hook; the yarn was nearly used up: added a stripe of green; "
        "the neck was much too tight: undid ten rows",
        done="the {head} was soft and snug; the last loop of the {head} was cast off",
        ends="{friend} rubbed it against one cheek; it kept out the coldest draught; nobody wanted to take it off",
        details="needles clicked in the lamplight; fluff floated about; the kettle purred on the hob",
    ),
    Topic(
        "print printed",
        things="poster, leaflet, comic, calendar, school magazine, wedding invitation, picture book, postcard",
        needs="glossy card, printing ink, staples, lead letters, coloured foil, correction fluid",
        tools="roller, stencil, paper knife, ruler, rubber stamp, composing stick",
        places="at the print works, in the newspaper office, at the copy shop, in the school cellar",
        people="printer, publisher, cartoonist",
        steps="designed the layout, arranged the letters backwards, corrected the spelling, inked the roller, "
        "pulled a first proof, trimmed the margins, stacked the copies to dry",
        troubles="a word on the front was misspelt: swapped two letters; the press squeaked to a halt: greased the lever; "
        "the pages were smeared: cleaned off the surplus ink; half of the paper was damp: dried it on a washing line",
        done="the {head} was hot off the press; a thousand copies of the {head} were stacked up",
        ends="{friend} took a bundle under each arm; it was pinned to every tree; by noon it was sold out",
        details="the press thumped like a heart; thumbprints blackened the door; a telephone shrilled upstairs",
    ),
    Topic(
        "decorate decorated",
        things="wedding cake, Christmas tree, ballroom, shop window, carnival float, nursery, birthday table, bandstand",
        needs="paper lanterns, glitter, fairy lights, balloons, silver tinsel, garlands",
        tools="stepladder, hole punch, icing bag, glue gun, pair of tweezers, tape dispenser",
        places="in the town hall, at the hotel, in the department store, on the high street",
        people="decorator, confectioner, hotel manager",
        steps="swept the dust away, chose three colours, hung up a garland, tied bows of satin, blew up fifty balloons, "
        "sprinkled glitter all over, switched on the lights",
        troubles="all the bulbs went out: replaced a blown fuse; the balloons burst one by one: moved them out of the sun; "
        "the ladder was too short: stood on a barrel; the colours clashed horribly: stuck to gold and white",
        done="the {head} sparkled from top to bottom; the {head} was fit for a queen",
        ends="{friend} gazed up with an open mouth; visitors queued to see it; flashbulbs popped on all sides",
        details="tinsel rustled in its boxes; confetti stuck to everything; carols drifted up from the lobby",
    ),
)
